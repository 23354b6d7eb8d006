# SPDX-License-Identifier: Apache-2.0
"""Which samples of a global batch are to blame: each one's loss, measured once more, forward only.

Shapes: B samples of a microbatch, G of the global batch, S sequence length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core import parallel_state

from megacpt.evaluate.heldout import evaluating
from megacpt.model.forward import run_losses
from megacpt.model.microbatch import host_microbatch
from megacpt.monitor.metrics import DocumentPart, FaultSample
from megacpt.samples.batch import Batch, Row
from megacpt.samples.training_data import TrainingData
from megacpt.tokenizer import Tokenizer
from megacpt.train.batches import rank_positions
from megacpt.train.guard.faults import as_number

WORST = 4
"""Samples named in an event."""
MOST_DOCUMENTS = 8
"""Named of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLosses:
    """Losses of every sample of a global batch, the same on every rank."""

    mean_G: npt.NDArray[np.float64]
    worst_token_G: npt.NDArray[np.int64]
    """The input whose target is the worst: the first that is not finite, or that with the largest
    loss."""

    @property
    def num_nonfinite(self) -> int:
        return int((~np.isfinite(self.mean_G)).sum())

    def worst(self, count: int) -> list[int]:
        """Positions, those that are not finite first, then by loss."""
        badness_G = np.where(np.isfinite(self.mean_G), self.mean_G, math.inf)
        return [int(n) for n in np.argsort(-badness_G, kind="stable")[:count]]


def samples_of(data: TrainingData, *, step: int) -> Mapping[str, int]:
    """Samples of each source in global batch ``step`` (the first is 1)."""
    before, after = data.consumed_samples(step - 1), data.consumed_samples(step)
    return {name: n - before[name] for name, n in after.items() if n > before[name]}


def measure_samples(
    chunks: list[Any], *, data: TrainingData, step: int, device: torch.device
) -> SampleLosses:
    """Losses of global batch ``step`` under the present weights; a collective call."""
    size = data.batch_size(step - 1)
    table_G3 = torch.zeros(size, 3, dtype=torch.float64, device=device)
    replica = rank_positions(
        size,
        micro_batch_size=data.config.micro_batch_size,
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
    )
    with evaluating(chunks):
        for positions in replica:
            _measure_microbatch(
                chunks,
                batch=data.load(step - 1, positions=positions),
                positions=positions,
                masked=data.config.document_mask,
                table_G3=table_G3,
            )
    torch.distributed.all_reduce(table_G3)
    sums_G, tokens_G, worst_G = table_G3.cpu().numpy().T
    return SampleLosses(
        mean_G=sums_G / np.maximum(tokens_G, 1), worst_token_G=worst_G.astype(np.int64)
    )


def _measure_microbatch(
    chunks: list[Any], *, batch: Batch, positions: list[int], masked: bool, table_G3: torch.Tensor
) -> None:
    """Write each sample's summed loss, number of targets and worst token into its row."""
    device = table_G3.device
    microbatch = host_microbatch(batch, document_mask=masked, device=device).to(device)
    losses_BS = run_losses(chunks, batch=microbatch)
    if losses_BS is None or not _speaks_for_replica():
        return
    counts_BS = torch.from_numpy(batch.loss_mask_BS).to(device) > 0
    losses_BS = torch.where(counts_BS, losses_BS.double(), 0.0)
    table_G3[positions, 0] = losses_BS.sum(dim=1)
    table_G3[positions, 1] = counts_BS.sum(dim=1).double()
    table_G3[positions, 2] = losses_BS.nan_to_num(nan=math.inf).argmax(dim=1).double()


def _speaks_for_replica() -> bool:
    """Tensor- and context-parallel ranks of the last stage all have the same losses."""
    ranks = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_context_parallel_rank(),
    )
    return ranks == (0, 0)


def worst_samples(
    losses: SampleLosses,
    *,
    data: TrainingData,
    step: int,
    tokenizer: Tokenizer,
    excerpt_tokens: int,
) -> list[FaultSample]:
    """The worst few with where they come from and what they say, worst first."""
    found: list[FaultSample] = []
    for position in losses.worst(WORST):
        (row,) = data.rows(step - 1, positions=[position])
        tokens_S = data.load(step - 1, positions=[position]).tokens_BS[0]
        # The guilty token may be the target or what it is predicted from.
        around = int(losses.worst_token_G[position]) + 1
        text = excerpt(tokens_S, around=around, num_tokens=excerpt_tokens)
        found.append(
            {
                "source": data.source_names[row.source_id],
                "position": position,
                "loss": as_number(float(losses.mean_G[position])),
                "documents": documents_of(row),
                "excerpt": tokenizer.decode(text),
            }
        )
    return found


def excerpt(tokens_S: npt.NDArray[np.int64], *, around: int, num_tokens: int) -> list[int]:
    """``num_tokens`` tokens with ``around`` in their middle, as far as the sample goes."""
    start = max(0, min(around - num_tokens // 2, tokens_S.size - num_tokens))
    return [int(token) for token in tokens_S[start : start + num_tokens]]


def documents_of(row: Row) -> list[DocumentPart]:
    """Which tokens of which documents fill a sample; of many documents the first few."""
    found: list[DocumentPart] = []
    for start, stop in zip(row.starts, row.stops, strict=True):
        borders = _borders(row, start=int(start), stop=int(stop))
        for begin, end in itertools.pairwise(borders):
            document, first_token = row.shard.document_at(begin)
            found.append({"document": document, "first_token": first_token, "tokens": end - begin})
            if len(found) == MOST_DOCUMENTS:
                return found
    return found


def _borders(row: Row, *, start: int, stop: int) -> Sequence[int]:
    inside = row.shard.document_starts(start + 1, stop=stop)
    return [start, *(int(token) for token in inside), stop]
