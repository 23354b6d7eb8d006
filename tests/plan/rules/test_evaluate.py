# SPDX-License-Identifier: Apache-2.0
"""What a benchmark must name, as far as it needs no lm-eval."""

from __future__ import annotations

import pytest

from megacpt.config.compose import compose
from megacpt.plan.rules.evaluate import RULES
from tests.plan.test_check import broken

MINE = "evaluate.benchmarks.mine"


def test_a_benchmark_and_questions_have_names_of_their_own() -> None:
    for name, times in (("mine", 1), ("other", 0)):
        asked = f"evaluate.usefulness.{name}"
        questions = (f"{asked}.questions=q.jsonl", f"{asked}.metric=contains")
        config = compose(["experiment=tiny", f"{MINE}.task=mmlu", *questions])
        found = broken(RULES, config=config)
        assert len(found) == times
        assert all("has the name of a benchmark" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["task=mmlu"], None),
        (["role=gain"], f"{MINE}.task= names no task; set {MINE}.task to one of lm-eval or to a "),
        (["task=none/of/them.yaml"], "none/of/them.yaml does not exist; give a YAML file"),
        (["task=mmlu", "include_path=no/folder"], "no/folder is no folder; give the folder"),
    ],
)
def test_rules(settings: list[str], sentence: str | None) -> None:
    config = compose(["experiment=tiny", *(f"{MINE}.{text}" for text in settings)])
    found = broken(RULES, config=config)
    assert len(found) == (sentence is not None)
    assert sentence is None or sentence in found[0]
