# SPDX-License-Identifier: Apache-2.0
"""Rules of the layout, and the layout that each remedy names."""

from __future__ import annotations

from typing import Any

import pytest

from megacpt.plan.check import nearest_valid_layout, violations
from megacpt.plan.layers_per_stage import stage_layers
from megacpt.plan.nearest_layout import as_text, with_settings
from tests.plan.test_check import ARCHITECTURE, config_of, messages


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"parallel.cp": 3},
            "data.sequence_length=512 cannot be cut into 2 * parallel.cp=6 equal chunks; "
            "use 510 or 516",
        ),
        (
            {"parallel.cp": 2, "data.document_mask": True},
            "data.document_mask=true needs whole samples on every rank, but parallel.cp=2 cuts "
            "them; use data.document_mask=false or parallel.cp=1",
        ),
        (
            {"parallel.cp": 2, "parallel.tp": 3, "parallel.sequence_parallel": True},
            "data.sequence_length=512 is no multiple of parallel.tp=3 * cp=2, which "
            "sequence_parallel needs; use 504 or 516",
        ),
        (
            {"parallel.last_stage_layers": 4},
            "parallel.last_stage_layers=4 needs more than one pipeline rank, but parallel.pp=1; "
            "use parallel.last_stage_layers=null",
        ),
        (
            {"parallel.pp": 4, "parallel.first_stage_layers": 7},
            "parallel.first_stage_layers=7 with pp=4, vpp=1 leaves layers that cannot be dealt "
            "evenly, of num_hidden_layers=30; use 3, 6, 9, 12, 15, 18, 21, 24 or 27",
        ),
        (
            {
                "parallel.pp": 2,
                "parallel.first_stage_layers": 14,
                "parallel.last_stage_layers": 14,
            },
            "parallel.first_stage_layers=14 with pp=2, vpp=1, last_stage_layers=14 leaves layers "
            "that cannot be dealt evenly, of num_hidden_layers=30; use 16",
        ),
        (
            {"parallel.recompute_layers": 4},
            "parallel.recompute_layers=4 needs parallel.recompute=full, but it is none; "
            "set parallel.recompute=full or parallel.recompute_layers=null",
        ),
        (
            {"parallel.recompute": "full", "parallel.pp": 3, "parallel.recompute_layers": 11},
            "parallel.recompute_layers=11 is above the 10 layers of a stage; "
            "use 10 or less, or null for all",
        ),
        ({"parallel.cp": 0}, "parallel.cp=0 is below 1; use 1 or more"),
        (
            {"parallel.first_stage_layers": 0},
            "parallel.first_stage_layers=0 is below 1; use 1 or more",
        ),
    ],
)
def test_a_broken_rule_of_the_layout_is_named(changes: dict[str, Any], expected: str) -> None:
    assert messages(changes) == [expected]


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({}, ""),
        ({"parallel.tp": 4}, "parallel.tp=3"),
        ({"parallel.tp": 9}, "parallel.dp=2 parallel.tp=3"),
        ({"parallel.pp": 4}, "parallel.first_stage_layers=3"),
        ({"parallel.dp": 3}, "parallel.dp=4"),
        ({"parallel.dp": 3, "data.global_batch_size": 4096}, "data.global_batch_size=4095"),
        ({"parallel.pp": 2, "parallel.vpp": 2}, "parallel.vpp=3"),
        ({"parallel.cp": 3}, "parallel.cp=4"),
        ({"parallel.cp": 4, "data.document_mask": True}, "parallel.cp=1 parallel.dp=4"),
        ({"parallel.overlap_param_gather": True}, "parallel.overlap_param_gather=false"),
        ({"parallel.recompute_layers": 4}, "parallel.recompute_layers=null"),
        ({"parallel.dp": -1, "parallel.tp": 0}, "parallel.dp=1 parallel.tp=1"),
        ({"parallel.ep": 2}, "parallel.ep=1"),
        ({"parallel.sharded_weights": True, "parallel.pp": 2}, "parallel.sharded_weights=false"),
    ],
)
def test_the_nearest_layout_changes_little(changes: dict[str, Any], nearest: str) -> None:
    settings = nearest_valid_layout(config_of(changes), architecture=ARCHITECTURE)
    assert settings is not None
    assert as_text(settings) == nearest
    fixed = with_settings(config_of(changes), settings=settings)
    assert violations(fixed, architecture=ARCHITECTURE) == []


def test_every_remedy_of_a_broken_layout_names_the_same_way_out() -> None:
    changes = {"parallel.tp": 9, "parallel.recompute_layers": 2, "optim.lr_peak": -1}
    found = violations(config_of(changes), architecture=ARCHITECTURE)
    ending = "; nearest valid layout: parallel.pp=3 parallel.recompute_layers=null parallel.tp=3"
    assert [v.remedy.endswith(ending) for v in found] == [False, True, True, True]


def test_the_nearest_layout_uses_the_ranks_that_were_started() -> None:
    config = config_of({"parallel.tp": 3})
    settings = nearest_valid_layout(config, architecture=ARCHITECTURE, num_ranks=6)
    assert settings == {"parallel.dp": 2}
    assert nearest_valid_layout(config, architecture=ARCHITECTURE, num_ranks=8) == {
        "parallel.dp": 8,
        "parallel.tp": 1,
    }


def test_no_layout_is_named_while_the_model_is_unknown() -> None:
    [found] = violations(config_of({"parallel.dp": 3}))
    assert found.remedy == "use 6 or 9"


def test_what_no_layout_mends_has_no_layout_named() -> None:
    [found] = violations(config_of({"data.sequence_length": 4096}), architecture=ARCHITECTURE)
    assert found.remedy == "use 2048 or less"


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        ({"pp": 3}, (10, 10, 10)),
        ({"pp": 4}, ()),
        ({"pp": 4, "first_stage_layers": 3}, (3, 9, 9, 9)),
        ({"pp": 4, "first_stage_layers": 4, "last_stage_layers": 6}, (4, 10, 10, 6)),
        ({"pp": 2, "last_stage_layers": 12}, (18, 12)),
        ({"pp": 2, "last_stage_layers": 12, "vpp": 4}, ()),
        ({"pp": 2, "last_stage_layers": 12, "vpp": 6}, (18, 12)),
        ({"pp": 2, "last_stage_layers": 30}, ()),
        ({"pp": 1, "last_stage_layers": 30}, ()),
    ],
)
def test_layers_of_the_stages(parallel: dict[str, int], expected: tuple[int, ...]) -> None:
    config = config_of({f"parallel.{name}": value for name, value in parallel.items()})
    assert stage_layers(30, parallel=config.parallel) == expected
