# SPDX-License-Identifier: Apache-2.0
"""Every layout trains the same curve as one rank: the proof behind each parallel axis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megacpt.data.indexed import write_shard
from tests_support import free_port, write_model_folder

WORKER = Path(__file__).with_name("parity_worker.py")
LAYOUTS: dict[int, dict[str, dict[str, object]]] = {
    1: {"single": {}},
    2: {
        "tp2": {"tp": 2},
        "tp2-sp": {"tp": 2, "sequence_parallel": True},
        "pp2": {"pp": 2},
        "pp2-vpp2": {"pp": 2, "vpp": 2},
        "dp2": {"dp": 2},
        "dp2-zero1": {"dp": 2, "distributed_optimizer": True},
        "dp2-zero1-overlap": {
            "dp": 2,
            "distributed_optimizer": True,
            "overlap_grad_reduce": True,
            "overlap_param_gather": True,
        },
    },
    4: {"tp2-pp2": {"tp": 2, "pp": 2}, "tp2-dp2": {"tp": 2, "dp": 2}},
}
NAMES = [name for layouts in LAYOUTS.values() for name in layouts if name != "single"]
LOSS_RTOL = 1e-5
GRAD_NORM_RTOL = 1e-4
# fp32 sums in another order differ by a few units of 6e-8 a term; ten steps of AdamW amplify that
# to about 1e-6 in the loss. The bounds are ten times that, far below any real mistake.


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def curves(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    work = tmp_path_factory.mktemp("parity")
    write_model_folder(work / "model", tie_word_embeddings=request.param)
    rng = np.random.default_rng(0)
    for name in ("domain", "replay"):
        write_shard(
            work / name,
            # Skewed, so that there is something to learn within ten steps.
            ((257 * rng.random(rng.integers(20, 90)) ** 3).astype(np.int64) for _ in range(60)),
            vocab_size=257,
        )
    found: dict[str, np.ndarray] = {}
    for world, layouts in LAYOUTS.items():
        start_ranks(work, world=world, layouts=layouts)
        text = (work / f"curves-{world}.json").read_text()
        found |= {name: np.array(curve) for name, curve in json.loads(text).items()}
    return found


def start_ranks(work: Path, *, world: int, layouts: dict[str, dict[str, object]]) -> None:
    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(work), json.dumps(layouts)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * world


@pytest.mark.mcore
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layout_equals_single_rank(curves: dict[str, np.ndarray], name: str) -> None:
    expected, found = curves["single"], curves[name]
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=LOSS_RTOL)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=GRAD_NORM_RTOL)


@pytest.mark.mcore
@pytest.mark.slow
def test_the_loss_falls(curves: dict[str, np.ndarray]) -> None:
    """A curve that stands still would make the parity tests hollow."""
    losses = curves["single"][:, 0]
    assert losses[-1] < losses[0] - 0.05
