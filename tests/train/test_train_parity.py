# SPDX-License-Identifier: Apache-2.0
"""Every layout trains the same curve as one rank: the proof behind each parallel axis."""

from __future__ import annotations

import numpy as np
import pytest
from parity import assert_same_curve, train_curves, write_run_inputs

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


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def curves(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    work = tmp_path_factory.mktemp("parity")
    write_run_inputs(work, tied=request.param)
    cases = {
        world: {name: {"parallel": parallel} for name, parallel in layouts.items()}
        for world, layouts in LAYOUTS.items()
    }
    return train_curves(work, cases)


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layout_equals_single_rank(curves: dict[str, np.ndarray], name: str) -> None:
    expected, found = curves["single"], curves[name]
    assert_same_curve(found, expected)


@pytest.mark.mcore
@pytest.mark.slow
def test_the_loss_falls(curves: dict[str, np.ndarray]) -> None:
    """A curve that stands still would make the parity tests hollow."""
    losses = curves["single"][:, 0]
    assert losses[-1] < losses[0] - 0.05
