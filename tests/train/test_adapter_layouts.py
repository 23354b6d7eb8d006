# SPDX-License-Identifier: Apache-2.0
"""A step of an adapter with what else a run may set computes what one plain rank does.

PiSSA's factors both differ from zero, so that the first step has a gradient for each.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.run_on_ranks import run_on_ranks
from tests.train.parity import GRAD_NORM_RTOL, LOSS_RTOL, write_run_inputs

ADAPTER = {"method": "pissa", "rank": 4, "train_embedding": True}
TP2_SP = {"tp": 2, "sequence_parallel": True}
OVERLAP = {"distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}
MASK: dict[str, Any] = {"data": {"document_mask": True}}
PLAIN: dict[str, dict[str, Any]] = {"plain": {}, "mask": MASK}
ALONE: dict[str, dict[str, Any]] = {
    "plain-recompute": {"parallel": {"recompute": "full"}},
    "plain-selective": {"parallel": {"recompute": "selective"}},
    "plain-offload": {
        "parallel": {"distributed_optimizer": True},
        "optim": {"offload": True},
    },
}
TOGETHER: dict[str, dict[str, Any]] = {
    "plain-vpp2": {"parallel": {"pp": 2, "vpp": 2}},
    "plain-pp2-recompute": {"parallel": {"pp": 2, "recompute": "full"}},
    "plain-tp2-recompute": {"parallel": TP2_SP | {"recompute": "full"}},
    "plain-dp2-overlap": {"parallel": {"dp": 2} | OVERLAP},
    "plain-dp2-offload": {
        "parallel": {"dp": 2, "distributed_optimizer": True},
        "optim": {"offload": True},
    },
    "mask-tp2": {"parallel": TP2_SP} | MASK,
    "plain-cp2": {"parallel": {"cp": 2}},
}
pytestmark = [pytest.mark.mcore, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Case -> loss and gradient norm."""
    work = tmp_path_factory.mktemp("adapters")
    write_run_inputs(work, tied=True)
    steps: dict[str, list[float]] = {}
    for world, cases in {1: PLAIN | ALONE, 2: TOGETHER}.items():
        settings = {name: {"adapter": ADAPTER} | case for name, case in cases.items()}
        if world == 1:
            settings["whole"] = {}
        run_on_ranks("tests.train.one_step:write_steps", work, world=world, cases=settings)
        steps |= json.loads((work / f"steps-{world}.json").read_text())
    return steps


@pytest.mark.parametrize("name", [*ALONE, *TOGETHER])
def test_it_computes_what_one_plain_rank_does(found: dict[str, Any], name: str) -> None:
    expected = found[name.partition("-")[0]]
    np.testing.assert_allclose(found[name][0], expected[0], rtol=LOSS_RTOL)
    np.testing.assert_allclose(found[name][1], expected[1], rtol=GRAD_NORM_RTOL)


def test_cases_would_show_a_difference(found: dict[str, Any]) -> None:
    """PiSSA begins where all weights do, with other gradients; a mask changes the loss."""
    np.testing.assert_allclose(found["plain"][0], found["whole"][0], rtol=LOSS_RTOL)
    assert abs(found["plain"][1] / found["whole"][1] - 1) > 100 * GRAD_NORM_RTOL
    assert abs(found["mask"][0] / found["plain"][0] - 1) > 10 * LOSS_RTOL
