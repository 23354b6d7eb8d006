# SPDX-License-Identifier: Apache-2.0
"""Two runs' candidates on the items that both have answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megacpt.config.sections import RunConfig
from megacpt.evaluate.between import between
from megacpt.evaluate.items import write_scores
from megacpt.evaluate.suite_gate import SuiteCheck
from tests.evaluate.statistics.suites import scores


def write(run_dir: Path, suite: str, values: list[float], *, metric: str = "acc") -> None:
    for label, found in (("base", [0.0] * len(values)), ("final", values)):
        path = run_dir / "benchmarks" / label / f"{suite}.jsonl"
        write_scores(path, scores=scores(np.array(found), suite=suite, metric=metric))


def compared(first: Path, second: Path, *names: str) -> list[SuiteCheck]:
    one, other = (RunConfig(run_dir=str(run_dir)) for run_dir in (first, second))
    return between(one, second=other, names=names)


def test_the_second_minus_the_first_of_suites_with_the_same_items(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, "law", [0.0, 0.0, 1.0, 1.0])
    write(second, "law", [1.0, 1.0, 1.0, 0.0])
    write(first, "code", [0.0, 1.0])
    write(second, "code", [0.0, 1.0, 1.0])
    write(first, "news", [0.0, 1.0])
    write(second, "news", [0.0, 1.0], metric="f1")
    (check,) = compared(first, second, "law", "code", "news", "neither")
    assert (check.suite, check.base, check.final) == ("law", 0.5, 0.75)
    assert check.difference_points == 25
    assert (check.gained, check.lost) == (2, 1)
    assert check.limit_points is None
    assert compared(first, second, "code") == []


def test_noise_is_that_of_the_base_from_run_to_run(tmp_path: Path) -> None:
    """How far the first run's candidate is from its base is none."""
    first, second = tmp_path / "first", tmp_path / "second"
    for run_dir in (first, second):
        write(run_dir, "law", [1.0] * 8)
    again = scores(np.zeros(8), suite="law")
    write_scores(first / "benchmarks" / "base-2" / "law.jsonl", scores=again)
    (check,) = compared(first, second, "law")
    assert (check.repeats, check.noise_points) == (2, 0)
