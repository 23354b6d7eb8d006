# SPDX-License-Identifier: Apache-2.0
"""Experts train the same curve in every layout, balancing loss included; checkpoints move too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.run_on_ranks import run_on_ranks
from tests.train.expert_runs import SAVED_AT
from tests.train.parity import (
    GRAD_NORM_RTOL,
    LOSS_RTOL,
    assert_same_curve,
    train_curves,
    write_run_inputs,
)

pytestmark = [pytest.mark.mcore, pytest.mark.every_mcore, pytest.mark.slow]

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.1,
}
TP2 = {"tp": 2, "sequence_parallel": True}
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {}, "recompute-full": {"recompute": "full"}},
    2: {
        "ep2": {"dp": 2, "ep": 2},
        "ep2-zero1": {
            "dp": 2,
            "ep": 2,
            "distributed_optimizer": True,
            "overlap_grad_reduce": True,
            "overlap_param_gather": True,
        },
        "dp2": {"dp": 2},
        "tp2": TP2,
        "tp2-etp1": TP2 | {"etp": 1},
        "tp2-ep2": TP2 | {"etp": 1, "ep": 2},
        "cp2": {"cp": 2},
        "cp2-ep2": {"cp": 2, "ep": 2},
        "pp2": {"pp": 2},
    },
    4: {
        "tp2-etp2-ep2": TP2 | {"dp": 2, "ep": 2},
        "dp4-ep2": {"dp": 4, "ep": 2},
        "pp2-ep2": {"pp": 2, "dp": 2, "ep": 2},
    },
}
OTHERS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "one-sample-a-microbatch": {"data": {"micro_batch_size": 1}},
        "not-balanced": {"model": {"router_aux_loss_coef": 0.0}},
    }
}
SAME = [n for layouts in LAYOUTS.values() for n in layouts if n != "single"]
SAME.append("one-sample-a-microbatch")


def write_inputs(work: Path) -> None:
    write_run_inputs(work, tied=False)
    path = work / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | MIXTRAL))


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    work = tmp_path_factory.mktemp("moe")
    write_inputs(work)
    cases = {
        world: {name: {"parallel": parallel} for name, parallel in layouts.items()}
        | OTHERS.get(world, {})
        for world, layouts in LAYOUTS.items()
    }
    return train_curves(work, cases)


@pytest.mark.parametrize("name", SAME)
def test_layout_equals_single_rank(curves: dict[str, np.ndarray], name: str) -> None:
    assert_same_curve(curves[name], curves["single"])


def test_the_balancing_loss_is_part_of_the_gradient(curves: dict[str, np.ndarray]) -> None:
    """Else its parity would be that of nothing."""
    difference = curves["not-balanced"][:, 1] / curves["single"][:, 1] - 1
    assert abs(difference).max() > 20 * GRAD_NORM_RTOL


def test_the_loss_falls(curves: dict[str, np.ndarray]) -> None:
    losses = curves["single"][:, 0]
    assert losses[-1] < losses[0] - 0.05


EP2 = {"parallel": {"dp": 2, "ep": 2, "distributed_optimizer": True}}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on ep=2 saved half-way, and gone on with from there on ep=2 and on one rank."""
    work = tmp_path_factory.mktemp("moe-resume")
    write_inputs(work)
    two = {"whole": EP2, "again": EP2 | {"from": "whole"}}
    run_on_ranks("tests.train.expert_runs:run_cases", work, world=2, cases=two)
    # The state of a distributed optimizer is read by another one, on however many ranks.
    alone = {"parallel": {"distributed_optimizer": True}, "from": "whole", "export": "hf"}
    run_on_ranks("tests.train.expert_runs:run_cases", work, world=1, cases={"alone": alone})
    return work


def curve(work: Path, name: str) -> np.ndarray:
    return np.array(json.loads((work / f"{name}.json").read_text()))


def test_a_resumed_run_repeats_the_same_numbers(resumed: Path) -> None:
    np.testing.assert_array_equal(curve(resumed, "again"), curve(resumed, "whole")[SAVED_AT:])


def test_experts_move_to_another_layout(resumed: Path) -> None:
    found, expected = curve(resumed, "alone"), curve(resumed, "whole")[SAVED_AT:]
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=LOSS_RTOL)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=GRAD_NORM_RTOL)


def test_the_exported_folder_is_certified(resumed: Path) -> None:
    """transformers has loaded it and found the same logits."""
    certificate = json.loads((resumed / "hf" / "certificate.json").read_text())
    assert certificate["certified"]
    assert certificate["max_abs_difference"] < 1e-4
