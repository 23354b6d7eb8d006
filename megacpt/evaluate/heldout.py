# SPDX-License-Identifier: Apache-2.0
"""Held-out loss of the sharded model: every target token of a named set once, on any layout."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state

from megacpt.config.sections import DataConfig, EvaluateConfig
from megacpt.model.forward import run_microbatches
from megacpt.model.microbatch import host_microbatch
from megacpt.samples.batch import Batch
from megacpt.samples.heldout import HeldoutSet

Losses = dict[str, float]
"""``loss`` (mean, in nats a token), ``perplexity`` and ``tokens`` (targets) of one set."""


def open_heldout(
    evaluate: EvaluateConfig,
    *,
    data: DataConfig,
    shards: Mapping[str, str],
    vocab_size: int,
    max_tokens: int | None = None,
) -> dict[str, HeldoutSet]:
    """The named sets, cut to their own ``max_tokens`` unless another bound is given (0: all)."""
    return {
        name: HeldoutSet.open(
            shards[name],
            sequence_length=data.sequence_length,
            max_tokens=heldout.max_tokens if max_tokens is None else max_tokens,
            vocab_size=vocab_size,
            document_mask=data.document_mask,
        )
        for name, heldout in evaluate.heldout.items()
    }


def measure_all(
    chunks: Sequence[Any],
    *,
    sets: Mapping[str, HeldoutSet],
    micro_batch_size: int,
    device: torch.device,
) -> dict[str, Losses]:
    """The loss of every set; a collective call, with the same result on every rank."""
    with evaluating(chunks):
        return {
            name: _measure(
                chunks, heldout=heldout, micro_batch_size=micro_batch_size, device=device
            )
            for name, heldout in sets.items()
        }


@contextmanager
def evaluating(chunks: Sequence[Any]) -> Iterator[None]:
    """Evaluation mode without gradients, on weights that are whole.

    With overlapped parameter gathering the updated weights arrive in forward hooks of the next
    training step; outside it they have to be gathered at once.
    """
    overlapped = [c for c in chunks if _gathers_in_hooks(c)]
    for chunk in overlapped:
        chunk.disable_forward_pre_hook(param_sync=True)
    for chunk in chunks:
        chunk.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for chunk in chunks:
            chunk.train()
        for chunk in overlapped:
            chunk.enable_forward_pre_hook()


def _gathers_in_hooks(chunk: Any) -> bool:
    ddp = getattr(chunk, "ddp_config", None)
    return ddp is not None and bool(ddp.overlap_param_gather)


def _measure(
    chunks: Sequence[Any], *, heldout: HeldoutSet, micro_batch_size: int, device: torch.device
) -> Losses:
    batches = _rank_batches(heldout, micro_batch_size=micro_batch_size, num_chunks=len(chunks))
    microbatches = [
        host_microbatch(batch, document_mask=heldout.document_mask, device=device).to(device)
        for batch in batches
    ]
    sums = run_microbatches(chunks, microbatches=microbatches, num_sources=1, forward_only=True)
    loss = sums.mean_loss
    return {"loss": loss, "perplexity": _perplexity(loss), "tokens": sums.tokens}


def _perplexity(loss: float) -> float:
    """exp(loss); infinite where a diverged model's would not fit a float."""
    return math.inf if loss > math.log(sys.float_info.max) else math.exp(loss)


def _rank_batches(heldout: HeldoutSet, *, micro_batch_size: int, num_chunks: int) -> list[Batch]:
    """This replica's windows; all replicas get equally many, filled up with masked repeats."""
    dp_rank = parallel_state.get_data_parallel_rank()
    dp_size = parallel_state.get_data_parallel_world_size()
    pp_size = parallel_state.get_pipeline_model_parallel_world_size() if num_chunks > 1 else 1
    count = math.ceil(heldout.num_samples / (micro_batch_size * dp_size))
    count = math.ceil(count / pp_size) * pp_size
    starts = [(m * dp_size + dp_rank) * micro_batch_size for m in range(count)]
    return [_load_filled(heldout, start=start, size=micro_batch_size) for start in starts]


def _load_filled(heldout: HeldoutSet, *, start: int, size: int) -> Batch:
    wanted = np.arange(start, start + size)
    batch = heldout.load([int(n) for n in np.minimum(wanted, heldout.num_samples - 1)])
    batch.loss_mask_BS[wanted >= heldout.num_samples] = 0.0
    return batch
