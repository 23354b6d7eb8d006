# SPDX-License-Identifier: Apache-2.0
"""Two runs' candidates on the items that both have answered: the difference of one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from megacpt.config.sections import GateConfig, RunConfig
from megacpt.evaluate.items import Scores
from megacpt.evaluate.suite_gate import Role, Suite, SuiteCheck, judge
from megacpt.evaluate.suites import benchmarks, usefulness


def between(first: RunConfig, *, second: RunConfig, names: Sequence[str]) -> list[SuiteCheck]:
    """A check a suite of ``names``, without limits; suites whose items differ are left out."""
    ours, theirs = (_measured(Path(run.run_dir), names=names) for run in (first, second))
    suites = {
        name: replace(ours[name], role=Role.none, base=ours[name].final, final=theirs[name].final)
        for name in names
        if name in ours
        and name in theirs
        and _same_items(ours[name].final, other=theirs[name].final)
    }
    return judge(suites, gate=GateConfig(), seed=first.seed)


def _measured(run_dir: Path, *, names: Sequence[str]) -> Mapping[str, Suite]:
    """Of any role: what is a gain to one run may be retention to the other."""
    return benchmarks(run_dir, roles=dict.fromkeys(names, "none")) | usefulness(run_dir)


def _same_items(scores: Scores, *, other: Scores) -> bool:
    return scores.metric == other.metric and scores.clusters == other.clusters
