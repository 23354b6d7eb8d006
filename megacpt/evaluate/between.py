# SPDX-License-Identifier: Apache-2.0
"""Two runs' candidates on the items that both have answered: the difference of one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from megacpt.config.paths import RunFolder
from megacpt.config.sections import GateConfig, RunConfig
from megacpt.evaluate.suite_gate import Role, Suite, SuiteCheck, judge
from megacpt.evaluate.suites import benchmarks, measured_names, usefulness


def between(first: RunConfig, *, second: RunConfig) -> list[SuiteCheck]:
    """A check a suite, without limits; suites whose items differ are left out."""
    ours, theirs = _measured(Path(first.run_dir)), _measured(Path(second.run_dir))
    suites = {
        name: replace(ours[name], role=Role.none, base=ours[name].final, final=theirs[name].final)
        for name in ours
        if name in theirs and _same_items(ours[name], other=theirs[name])
    }
    return judge(suites, gate=GateConfig(), seed=first.seed)


def _measured(run_dir: Path) -> Mapping[str, Suite]:
    """Of any role: what is a gain to one run may be retention to the other."""
    names = dict.fromkeys(measured_names(RunFolder(run_dir).benchmarks), "none")
    return benchmarks(run_dir, roles=names) | usefulness(run_dir)


def _same_items(suite: Suite, *, other: Suite) -> bool:
    return suite.final.metric == other.final.metric and _items(suite) == _items(other)


def _items(suite: Suite) -> dict[str, str]:
    return {item.id: item.cluster for item in suite.final.items}
