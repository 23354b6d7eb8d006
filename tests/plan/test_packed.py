# SPDX-License-Identifier: Apache-2.0
"""A packed base that cannot be is refused by name, with a remedy that leads on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megacpt.config.sections import BaseWeights
from megacpt.families.architecture import Experts
from megacpt.plan.packed import packed_base
from tests.plan.test_check import ARCHITECTURE, config_of

MIXTURE = replace(
    ARCHITECTURE,
    family="mixtral",
    experts=Experts(num=8, per_token=2, balance_coefficient=0.02),
)
TP3 = {"parallel.tp": 3, "parallel.sequence_parallel": True}


def found(
    changes: dict[str, Any],
    *,
    packing: BaseWeights = BaseWeights.nf4,
    architecture: Any = ARCHITECTURE,
) -> list[str]:
    config = config_of(changes)
    violations = packed_base(
        packing,
        precision=config.precision,
        parallel=config.parallel,
        device=config.cluster.device,
        architecture=architecture,
        path="adapter.base",
    )
    return [str(violation) for violation in violations]


@pytest.mark.parametrize("packing", BaseWeights)
def test_what_is_sound(packing: BaseWeights) -> None:
    for changes in ({}, TP3, {"parallel.pp": 2}, {"parallel.dp": 2, "precision.dtype": "fp32"}):
        assert found(changes, packing=packing) == []
    assert found(TP3, packing=packing, architecture=MIXTURE) == []
    assert found({}, architecture=None) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"precision.recipe": "tensorwise"},
            "adapter.base=nf4 has products in the run's own type, but precision.recipe=tensorwise "
            "quantises them; set precision.recipe=none or adapter.base=null",
        ),
        (
            {"parallel.sharded_weights": True},
            "adapter.base=nf4 is not possible with parallel.sharded_weights, which gathers weights "
            "of the run's type; set parallel.sharded_weights=false: a packed base takes a quarter "
            "or half of the room",
        ),
        (
            {"cluster.device": "gpu"},
            "adapter.base=nf4 needs layers of plain modules, but on GPUs they are Transformer "
            "Engine's; set cluster.device=cpu or adapter.base=null",
        ),
        (
            {"parallel.tp": 9},
            "adapter.base=nf4 packs 64 values of a row at a time, of which the rows on a rank are "
            "no multiple: down_proj (170.667); use a smaller parallel.tp, or adapter.base=int8",
        ),
    ],
)
def test_each_rule(changes: dict[str, Any], expected: str) -> None:
    assert found(changes) == [expected]


def test_rows_that_no_layout_makes_fit() -> None:
    narrow = replace(ARCHITECTURE, hidden_size=580, head_dim=64)
    (sentence,) = found({}, architecture=narrow)
    assert sentence == (
        "adapter.base=nf4 packs 64 values of a row at a time, of which the rows are no multiple: "
        "q_proj (580) and gate_proj (580); use adapter.base=int8"
    )
    assert found({}, architecture=narrow, packing=BaseWeights.int8) == []


def test_experts_are_cut_by_ranks_of_their_own() -> None:
    (sentence,) = found({"parallel.dp": 16, "parallel.etp": 16}, architecture=MIXTURE)
    assert "w2 (96)" in sentence
    assert sentence.endswith("use a smaller parallel.etp, or adapter.base=int8")
