# SPDX-License-Identifier: Apache-2.0
"""Scores of a run folder are read as suites."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megacpt.evaluate.items import write_scores
from megacpt.evaluate.suite_gate import Role
from megacpt.evaluate.suites import benchmarks, usefulness
from tests.evaluate.statistics.suites import scores

VALUES_N = np.array([0.0, 1.0, 1.0])


def write(run_dir: Path, *places: str) -> None:
    for place in places:
        path = run_dir / f"{place}.jsonl"
        write_scores(path, scores=scores(VALUES_N, suite=path.stem))


def test_those_that_base_and_final_were_measured_on(tmp_path: Path) -> None:
    write(tmp_path, "benchmarks/base/law", "benchmarks/base-2/law", "benchmarks/final/law")
    write(tmp_path, "benchmarks/base/code", "benchmarks/step-20/law", "benchmarks/step-20/code")
    roles = {"law": "gain", "code": "retention", "news": "none"}
    found = benchmarks(tmp_path, roles=roles, decontaminated={"law": True})
    assert list(found) == ["law"]
    assert (found["law"].role, found["law"].decontaminated) == (Role.gain, True)
    assert len(found["law"].repeats) == 2
    at_step = benchmarks(tmp_path, roles=roles, final="step-20")
    assert list(at_step) == ["law", "code"]
    assert at_step["code"].decontaminated is None


def test_usefulness_has_its_own_folder(tmp_path: Path) -> None:
    assert usefulness(tmp_path) == {}
    write(tmp_path, "usefulness/base/help", "usefulness/final/help", "usefulness/base/other")
    assert {name: suite.role for name, suite in usefulness(tmp_path).items()} == {
        "help": Role.usefulness
    }
