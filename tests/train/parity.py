# SPDX-License-Identifier: Apache-2.0
"""Loss curves of small runs that differ in layout alone, and what counts as the same curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from megacpt.shards.reader import write_shard
from tests.run_on_ranks import run_on_ranks
from tests.support import write_model_folder

LOSS_RTOL = 1e-5
GRAD_NORM_RTOL = 1e-4
# fp32 sums in another order differ by a few units of 6e-8 a term; twenty steps of AdamW amplify
# that to some 1e-8 in the loss (a mean of many tokens) and 1e-5 in the gradient norm at most.
BF16_LOSS_RTOL = 2e-3
# bf16 keeps 8 bits, so an activation that is summed in another order changes by up to 2**-8 = 4e-3.
# Such changes are random, and a loss is a mean over 256 tokens, so one step's loss differs by a
# tenth of that.
BF16_GRAD_NORM_RTOL = 4e-3
# A rounding of a norm itself. How far roundings of weights and activations move it depends on the
# step: initial weights that are off by 2**-9, half a rounding of bf16, move most norms of one rank
# in fp32 by 1e-3, that of step 15 by 0.05 to 0.16. So each step is held to what they do there.
BF16_NOISE_FACTOR = 2.0
NUDGED = {f"nudged-{seed}": {"nudge_seed": seed} for seed in range(4)}
"""Cases of one rank in fp32 whose initial weights are off by a rounding of bf16."""


def write_run_inputs(work: Path, *, tied: bool) -> None:
    """A model folder and the shards of a domain, a replay and one more source."""
    write_model_folder(work / "model", tie_word_embeddings=tied)
    rng = np.random.default_rng(0)
    for name in ("domain", "replay", "late"):
        write_shard(
            work / name,
            # Skewed, so that there is something to learn within twenty steps.
            documents=(
                (257 * rng.random(rng.integers(20, 90)) ** 3).astype(np.int64) for _ in range(60)
            ),
            vocab_size=257,
        )


def train_curves(work: Path, cases: dict[int, dict[str, Any]]) -> dict[str, np.ndarray]:
    """World size -> name -> settings, to name -> one row a step (see curves.py).

    Four samples a microbatch, shared by the replicas, unless a case says otherwise: still several
    microbatches everywhere, and few collectives, which are most of the time.
    """
    found: dict[str, np.ndarray] = {}
    for world, changes in cases.items():
        paired = {name: _with_few_microbatches(case) for name, case in changes.items()}
        run_on_ranks("tests.train.curves:write_curves", work, world=world, cases=paired)
        text = (work / f"curves-{world}.json").read_text()
        found |= {name: np.array(curve) for name, curve in json.loads(text).items()}
    return found


def assert_same_curve(found: np.ndarray, expected: np.ndarray) -> None:
    """Loss, loss of each source, and gradient norm, at every step."""
    losses = _losses(expected)
    np.testing.assert_allclose(found[:, losses], expected[:, losses], rtol=LOSS_RTOL)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=GRAD_NORM_RTOL)


def assert_same_curve_in_bf16(found: np.ndarray, curves: dict[str, np.ndarray]) -> None:
    """At every step as near to one rank in fp32 as bf16's roundings allow.

    ``curves`` holds ``single`` and NUDGED.
    """
    exact = curves["single"]
    losses = _losses(exact)
    np.testing.assert_allclose(found[:, losses], exact[:, losses], rtol=BF16_LOSS_RTOL)
    noise_S = np.max([_grad_norm_error(curves[name], exact) for name in NUDGED], axis=0)
    excess_S = _grad_norm_error(found, exact) - BF16_NOISE_FACTOR * noise_S
    assert (excess_S <= BF16_GRAD_NORM_RTOL).all(), excess_S


def _grad_norm_error(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return np.abs(found[:, 1] / exact[:, 1] - 1)


def _with_few_microbatches(case: dict[str, Any]) -> dict[str, Any]:
    size = 4 // case.get("parallel", {}).get("dp", 1)
    return case | {"data": {"micro_batch_size": size} | case.get("data", {})}


def _losses(curve: np.ndarray) -> list[int]:
    return [0, *range(2, curve.shape[1])]
