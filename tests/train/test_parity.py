# SPDX-License-Identifier: Apache-2.0
"""Every layout trains the same curve as one rank: the proof behind each parallel axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import write_model_folder
from tests.train.parity import (
    NUDGED,
    assert_same_curve,
    assert_same_curve_in_bf16,
    train_curves,
    write_run_inputs,
)

LAYOUTS: dict[int, dict[str, dict[str, object]]] = {
    1: {
        "single": {},
        "recompute-selective": {"recompute": "selective"},
        "recompute-full": {"recompute": "full"},
        "recompute-block": {"recompute": "full", "recompute_layers": 1},
    },
    2: {
        "tp2": {"tp": 2},
        "tp2-sp": {"tp": 2, "sequence_parallel": True},
        "pp2": {"pp": 2},
        "pp2-vpp2": {"pp": 2, "vpp": 2},
        "pp2-uneven": {"pp": 2, "first_stage_layers": 1},
        "cp2": {"cp": 2},
        "cp2-recompute": {"cp": 2, "recompute": "selective"},
        "cp2-zero1": {"cp": 2, "distributed_optimizer": True},
        "dp2": {"dp": 2},
        "dp2-zero1": {"dp": 2, "distributed_optimizer": True},
        "dp2-zero1-overlap": {
            "dp": 2,
            "distributed_optimizer": True,
            "overlap_grad_reduce": True,
            "overlap_param_gather": True,
        },
    },
    4: {
        "tp2-pp2": {"tp": 2, "pp": 2},
        "tp2-dp2": {"tp": 2, "dp": 2},
        "tp2-cp2": {"tp": 2, "cp": 2},
        "tp2-sp-cp2": {"tp": 2, "cp": 2, "sequence_parallel": True},
        "cp2-pp2-vpp2": {"cp": 2, "pp": 2, "vpp": 2},
        "cp4": {"cp": 4},
    },
}
NAMES = [name for layouts in LAYOUTS.values() for name in layouts if name != "single"]
VARIANTS: dict[str, tuple[str, ...]] = {
    "untied": ("single", "tp2", "pp2", "pp2-vpp2", "pp2-uneven", "dp2-zero1", "tp2-pp2"),
    "bf16": ("recompute-full", "tp2-sp", "pp2", "cp2", "dp2-zero1"),
    "rates": ("single", "tp2", "pp2", "dp2-zero1", "tp2-pp2"),
}
"""What is trained once more: with an output matrix of its own, in bf16, and with rates of their own
for embedding and head."""


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    work = tmp_path_factory.mktemp("parity")
    write_run_inputs(work, tied=True)
    write_model_folder(work / "untied", tie_word_embeddings=False)
    changes: dict[str, dict[str, Any]] = {
        "untied": {"model": {"path": str(work / "untied")}},
        "bf16": {"precision": {"dtype": "bf16"}},
    }
    rates = {"embedding_lr_multiplier": 3.0, "head_lr_multiplier": 0.25}
    changes["rates"] = changes["untied"] | {"optim": rates}
    cases: dict[int, dict[str, dict[str, Any]]] = {}
    for world, layouts in LAYOUTS.items():
        cases[world] = {name: {"parallel": layout} for name, layout in layouts.items()}
        for variant, names in VARIANTS.items():
            for name in set(names) & set(layouts):
                case = {"parallel": layouts[name]} | changes[variant]
                cases[world][f"{variant}-{name}"] = case
    cases[1] |= NUDGED
    return train_curves(work, cases)


@pytest.mark.mcore
@pytest.mark.every_mcore
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layout_equals_single_rank(curves: dict[str, np.ndarray], name: str) -> None:
    assert_same_curve(curves[name], curves["single"])


@pytest.mark.mcore
@pytest.mark.every_mcore
@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS["untied"][1:])
def test_with_an_output_matrix_of_its_own(curves: dict[str, np.ndarray], name: str) -> None:
    assert_same_curve(curves[f"untied-{name}"], curves["untied-single"])


@pytest.mark.mcore
@pytest.mark.every_mcore
@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS["rates"][1:])
def test_with_rates_of_their_own(curves: dict[str, np.ndarray], name: str) -> None:
    assert_same_curve(curves[f"rates-{name}"], curves["rates-single"])
    with pytest.raises(AssertionError):
        assert_same_curve(curves[f"rates-{name}"], curves["untied-single"])


@pytest.mark.mcore
@pytest.mark.every_mcore
@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS["bf16"])
def test_layout_equals_single_rank_in_bf16(curves: dict[str, np.ndarray], name: str) -> None:
    assert_same_curve_in_bf16(curves[f"bf16-{name}"], curves)


@pytest.mark.mcore
@pytest.mark.every_mcore
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in LAYOUTS[1] if n.startswith("recompute")])
def test_recomputation_changes_no_bit(curves: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_array_equal(curves[name], curves["single"])


@pytest.mark.mcore
@pytest.mark.every_mcore
@pytest.mark.slow
def test_the_loss_falls(curves: dict[str, np.ndarray]) -> None:
    """A curve that stands still would make the parity tests hollow."""
    losses = curves["single"][:, 0]
    assert losses[-1] < losses[0] - 0.05
