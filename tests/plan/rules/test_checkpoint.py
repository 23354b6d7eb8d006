# SPDX-License-Identifier: Apache-2.0
"""What a warm start may take together."""

from __future__ import annotations

import pytest

from megacpt.config.compose import compose
from megacpt.plan.rules.checkpoint import RULES, taken
from tests.plan.test_check import broken

SOURCE = "checkpoint.load_from=runs/other"


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ([], []),
        ([SOURCE], []),
        ([SOURCE, "checkpoint.load.optimizer=true", "checkpoint.load.data=true"], []),
        ([SOURCE, "checkpoint.load.weights=false", "checkpoint.load.schedule=true"], []),
        ([SOURCE, "checkpoint.load.weights=false"], ["checkpoint.load_from"]),
        (
            [SOURCE, "checkpoint.load.weights=false", "checkpoint.load.optimizer=true"],
            ["checkpoint.load.optimizer"],
        ),
        (
            ["checkpoint.load.optimizer=true", "checkpoint.load.weights=false"],
            ["checkpoint.load.weights", "checkpoint.load.optimizer"],
        ),
        (
            [SOURCE, "data.order=megatron", "checkpoint.load.schedule=true"],
            ["checkpoint.load.data"],
        ),
    ],
)
def test_rules(settings: list[str], paths: list[str]) -> None:
    config = compose(["experiment=tiny", *settings])
    assert [text.partition("=")[0] for text in broken(RULES, config=config)] == paths


def test_parts_are_named_as_in_the_settings() -> None:
    assert taken(compose([SOURCE]).checkpoint.load) == ["weights"]
