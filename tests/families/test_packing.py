# SPDX-License-Identifier: Apache-2.0
"""What a packed matrix takes, counted; tests/model/frozen compares it with the model's own."""

from __future__ import annotations

from dataclasses import replace

from megacpt.config.sections import BaseWeights
from megacpt.families import param_rows
from megacpt.families.architecture import Experts
from megacpt.families.packing import is_packed, packed_bytes
from tests.plan.test_check import ARCHITECTURE

MIXTURE = replace(
    ARCHITECTURE,
    family="mixtral",
    experts=Experts(num=8, per_token=2, balance_coefficient=0.02),
)


def test_four_bits_and_a_scale_a_block() -> None:
    rows = [row for row in param_rows(ARCHITECTURE) if is_packed(row)]
    names = [row.native.removeprefix("decoder.layers.{layer}.") for row in rows]
    assert names == [
        "self_attention.linear_qkv.weight",
        "self_attention.linear_proj.weight",
        "mlp.linear_fc1.weight",
        "mlp.linear_fc2.weight",
    ]
    for row in rows:
        values = row.num_values(ARCHITECTURE, layers=(0, 1))
        counted = {
            packing: packed_bytes(row, architecture=ARCHITECTURE, packing=packing, layers=(0, 1))
            for packing in BaseWeights
        }
        assert counted[BaseWeights.nf4] == values * 9 // 16
        assert values < counted[BaseWeights.int8] <= values * 1.01


def test_experts_are_packed_and_routers_are_not() -> None:
    rows = [row for row in param_rows(MIXTURE) if is_packed(row)]
    assert sum(row.per_expert for row in rows) == 2
    assert not any("router" in row.native for row in rows)
    row = next(row for row in rows if row.per_expert)
    dense = replace(MIXTURE, experts=replace(MIXTURE.experts, num=1))
    counts = [
        packed_bytes(row, architecture=architecture, packing=BaseWeights.nf4)
        for architecture in (MIXTURE, dense)
    ]
    assert counts[0] == 8 * counts[1]
