# SPDX-License-Identifier: Apache-2.0
"""Lengths and warmups in different units: the strongest place decides, one place sets one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megacpt.config.alternatives import given_way
from megacpt.config.compose import compose, render
from megacpt.errors import ConfigError

STEPS, EPOCHS, TOKENS = (
    {"schedule": {k: v}} for k, v in (("steps", 9), ("epochs", "2"), ("tokens", 5))
)
FRACTION = {"schedule": {"warmup_fraction": 0.1}}


@pytest.mark.parametrize(
    ("layers", "gives_way"),
    [
        ([EPOCHS, STEPS], {"schedule.steps": 0, "schedule.tokens": None}),
        ([STEPS, TOKENS, EPOCHS], {"schedule.epochs": None, "schedule.tokens": None}),
        ([{}, {}, TOKENS], {"schedule.steps": 0, "schedule.epochs": None}),
        ([FRACTION, {"schedule": {"warmup_steps": 3}}], {"schedule.warmup_steps": 0}),
        ([{"schedule": {"warmup_steps": "0"}}, FRACTION], {"schedule.warmup_fraction": None}),
        ([{"schedule": {"epochs": None}}, {}], {}),
        ([{"schedule": {"steps": 0, "epochs": 2}}], {"schedule.steps": 0, "schedule.tokens": None}),
        ([{"schedule": "null"}, {}], {}),
    ],
)
def test_the_strongest_place_decides(layers: list[Any], gives_way: dict[str, Any]) -> None:
    assert given_way(layers) == gives_way


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"steps": 9, "epochs": "2"}, "schedule.steps=9 is set beside schedule.epochs=2"),
        ({"epochs": 2, "tokens": 5}, "schedule.epochs=2 is set beside schedule.tokens=5"),
        ({"steps": 1, "epochs": 2, "tokens": 5}, "schedule.epochs=2 and schedule.tokens=5"),
        ({"warmup_steps": 1, "warmup_fraction": 0.1}, "schedule.warmup_steps=1 is set beside"),
    ],
)
def test_two_in_one_place_are_refused(layer: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        given_way([{"schedule": layer}])


def test_what_config_prints_is_a_usable_file(tmp_path: Path) -> None:
    asked = compose(["experiment=tiny", "schedule.epochs=2", "schedule.warmup_fraction=0.1"])
    assert (asked.schedule.steps, asked.schedule.warmup_steps) == (0, 0)
    (tmp_path / "again.yaml").write_text(render(asked))
    assert compose([], config_file=tmp_path / "again.yaml") == asked
    assert (
        compose(["schedule.steps=7"], config_file=tmp_path / "again.yaml").schedule.epochs is None
    )
