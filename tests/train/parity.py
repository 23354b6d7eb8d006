# SPDX-License-Identifier: Apache-2.0
"""Loss curves of small runs that differ in layout alone, and what counts as the same curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ranks import start_ranks

from megacpt.data.indexed import write_shard
from tests_support import write_model_folder

WORKER = Path(__file__).with_name("parity_worker.py")
LOSS_RTOL = 1e-5
GRAD_NORM_RTOL = 1e-4
# fp32 sums in another order differ by a few units of 6e-8 a term; twenty steps of AdamW amplify
# that to some 1e-8 in the loss (a mean of many tokens) and 1e-5 in the gradient norm at most.
BF16_LOSS_RTOL = 2e-3
BF16_GRAD_NORM_MEDIAN_RTOL = 4e-3
# bf16 keeps 8 bits, so an activation that is summed in another order changes by up to 2**-8 = 4e-3.
# Such changes are random, and a loss is a mean over 256 tokens, so one step's loss differs by a
# tenth of that. Gradient norms of most steps differ by less than one rounding, that of step 15 by
# up to 8 % (why is not known; in fp32 it agrees), so the median is bounded and no single step. A
# missing or doubled reduction is wrong at every step.


def write_run_inputs(work: Path, *, tied: bool) -> None:
    """A model folder and the shards of a domain, a replay and one more source."""
    write_model_folder(work / "model", tie_word_embeddings=tied)
    rng = np.random.default_rng(0)
    for name in ("domain", "replay", "late"):
        write_shard(
            work / name,
            # Skewed, so that there is something to learn within twenty steps.
            ((257 * rng.random(rng.integers(20, 90)) ** 3).astype(np.int64) for _ in range(60)),
            vocab_size=257,
        )


def train_curves(work: Path, cases: dict[int, dict[str, Any]]) -> dict[str, np.ndarray]:
    """World size -> name -> settings, to name -> one row a step (see parity_worker.py).

    Two samples a microbatch unless a case says otherwise: still several microbatches everywhere,
    and half of the collectives, which are most of the time.
    """
    found: dict[str, np.ndarray] = {}
    for world, changes in cases.items():
        paired = {
            name: case | {"data": {"micro_batch_size": 2} | case.get("data", {})}
            for name, case in changes.items()
        }
        start_ranks(WORKER, work, world=world, cases=paired)
        text = (work / f"curves-{world}.json").read_text()
        found |= {name: np.array(curve) for name, curve in json.loads(text).items()}
    return found


def assert_same_curve(found: np.ndarray, expected: np.ndarray) -> None:
    """Loss, loss of each source, and gradient norm, at every step."""
    losses = _losses(expected)
    np.testing.assert_allclose(found[:, losses], expected[:, losses], rtol=LOSS_RTOL)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=GRAD_NORM_RTOL)


def assert_same_curve_in_bf16(found: np.ndarray, expected: np.ndarray) -> None:
    """Losses at every step, gradient norms at most of them."""
    losses = _losses(expected)
    np.testing.assert_allclose(found[:, losses], expected[:, losses], rtol=BF16_LOSS_RTOL)
    differences = np.abs(found[:, 1] / expected[:, 1] - 1)
    assert np.median(differences) <= BF16_GRAD_NORM_MEDIAN_RTOL, differences


def _losses(curve: np.ndarray) -> list[int]:
    return [0, *range(2, curve.shape[1])]
