# SPDX-License-Identifier: Apache-2.0
"""ZeRO-3 and an optimizer in host memory train the curve of one rank, and go on after a stop."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.run_on_ranks import run_on_ranks
from tests.train.parity import (
    GRAD_NORM_RTOL,
    LOSS_RTOL,
    NUDGED,
    assert_same_curve,
    assert_same_curve_in_bf16,
    train_curves,
    write_run_inputs,
)

BF16 = {"precision": {"dtype": "bf16"}}
ZERO3 = {"dp": 2, "sharded_weights": True}
OFFLOAD = {"parallel": {"distributed_optimizer": True}, "optim": {"offload": True}}
OFFLOAD_DP2 = {**OFFLOAD, "parallel": {"dp": 2, "distributed_optimizer": True}}
CURVES: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {}, "offload": OFFLOAD, **NUDGED},
    2: {
        "zero3": {"parallel": ZERO3},
        "zero3-bf16": {"parallel": ZERO3, **BF16},
        "zero3-recompute": {"parallel": {**ZERO3, "recompute": "full"}},
        "zero1-offload": OFFLOAD_DP2,
    },
    4: {"zero3-tp2-sp": {"parallel": {**ZERO3, "tp": 2, "sequence_parallel": True}}},
}
RESUMED: dict[int, dict[str, dict[str, Any]]] = {
    2: {
        "zero3": {"parallel": ZERO3},
        "zero3-bf16": {"parallel": ZERO3, **BF16},
        "offload": OFFLOAD_DP2,
        "offload-bf16": {**OFFLOAD_DP2, **BF16},
    },
}
pytestmark = [pytest.mark.mcore, pytest.mark.every_mcore, pytest.mark.slow]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """With tied embeddings; the resumed runs below have an output matrix of their own."""
    work = tmp_path_factory.mktemp("curves")
    write_run_inputs(work, tied=True)
    return train_curves(work, CURVES)


@pytest.mark.parametrize(
    "name", ["offload", "zero3", "zero3-recompute", "zero1-offload", "zero3-tp2-sp"]
)
def test_trains_the_curve_of_one_rank(curves: dict[str, np.ndarray], name: str) -> None:
    assert_same_curve(curves[name], curves["single"])


def test_bf16_with_fp32_shards_stays_within_its_rounding(curves: dict[str, np.ndarray]) -> None:
    assert_same_curve_in_bf16(curves["zero3-bf16"], curves)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    work = tmp_path_factory.mktemp("resumed")
    write_run_inputs(work, tied=False)
    for world, cases in RESUMED.items():
        run_on_ranks("tests.train.sharded_runs:run_cases", work, world=world, cases=cases)
    return json.loads((work / "sharded-2.json").read_text())


@pytest.mark.parametrize("name", RESUMED[2])
def test_a_resumed_run_goes_on_bit_for_bit(resumed: dict[str, Any], name: str) -> None:
    assert resumed[name]["resumed"] == resumed[name]["undisturbed"]


def test_cut_weights_go_on_from_a_file_of_whole_ones(resumed: dict[str, Any]) -> None:
    found, expected = (np.array(resumed["zero3"][name]) for name in ("from-whole", "whole"))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=LOSS_RTOL)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=GRAD_NORM_RTOL)


@pytest.mark.parametrize("name", ["zero3", "zero3-bf16"])
def test_whole_weights_are_read_from_a_file_of_cut_ones(resumed: dict[str, Any], name: str) -> None:
    """As export and evaluate do; held-out losses and generations agree with the cut model's."""
    case = resumed[name]
    assert case["equal-weights"]
    assert case["measured"] == case["measured-whole"]


def test_a_rank_holds_its_part_alone(resumed: dict[str, Any]) -> None:
    """The vocabulary of 257 rows is cut into 129 and 128."""
    assert resumed["zero3"]["part-held"] == pytest.approx(0.5, abs=0.001)
