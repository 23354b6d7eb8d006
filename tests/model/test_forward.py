# SPDX-License-Identifier: Apache-2.0
"""Losses are counted per source: a batch of several equals each of its samples by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.samples.batch import Batch
from tests.llama_cases import TOKENS_BS, write_llama

pytestmark = pytest.mark.mcore

SOURCE_IDS_B = np.array([2, 0, 2, 0])
LENGTH = 48
BOUNDS = ([0, 7, 48], [0, 48], [0, 30, 31, 48], [0, 1, 48])


def model(folder: Path) -> list[Any]:
    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    write_llama(folder)
    architecture = read_architecture(folder)
    chunks = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=LENGTH,
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    return chunks


def batch_of(rows: list[int]) -> Batch:
    """Rows of a batch of four, some of their labels masked."""
    tokens_BS = TOKENS_BS.view(4, LENGTH).numpy()
    mask_BS = (np.random.default_rng(3).random(tokens_BS.shape) < 0.8).astype(np.float32)
    return Batch(
        tokens_BS=tokens_BS[rows],
        labels_BS=np.roll(tokens_BS, -1, axis=1)[rows],
        loss_mask_BS=mask_BS[rows],
        positions_BS=np.tile(np.arange(LENGTH), (len(rows), 1)),
        source_ids_B=SOURCE_IDS_B[rows],
        cu_seqlens=tuple(np.array(BOUNDS[row], dtype=np.int32) for row in rows),
    )


@pytest.mark.parametrize("document_mask", [False, True])
def test_losses_of_sources_are_those_of_their_samples(
    document_mask: bool, tmp_path: Path, one_rank: None
) -> None:
    from megacpt.model.forward import run_microbatches
    from megacpt.model.microbatch import host_microbatch

    chunks = model(tmp_path / "model")

    def sums_of(batches: list[list[int]]) -> Any:
        microbatches = [
            host_microbatch(batch_of(rows), document_mask=document_mask, device=torch.device("cpu"))
            for rows in batches
        ]
        with torch.no_grad():
            return run_microbatches(
                chunks, microbatches=microbatches, num_sources=3, forward_only=True
            )

    alone = [sums_of([[row]]) for row in range(4)]
    together = sums_of([[0, 1], [2, 3]])
    for source in range(3):
        mine = [s for s, owner in zip(alone, SOURCE_IDS_B, strict=True) if owner == source]
        expected = sum(s.loss_N[source] for s in mine)
        assert together.loss_N[source] == pytest.approx(expected, rel=1e-6)
        assert together.tokens_N[source] == sum(s.tokens for s in mine)
    assert together.tokens == int(batch_of([0, 1, 2, 3]).loss_mask_BS.sum())
    assert together.mean_loss == pytest.approx(sum(together.loss_N) / together.tokens)
