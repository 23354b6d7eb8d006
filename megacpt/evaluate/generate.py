# SPDX-License-Identifier: Apache-2.0
"""Spot-check generations: continue a few fixed prompts greedily with the sharded model.

There is no key-value cache: each new token is a full forward pass through the pipeline, which a
handful of short prompts can afford and which needs nothing that training does not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

from megacpt.evaluate.heldout import evaluating
from megacpt.model.forward import run_logits
from megacpt.model.layers.attention import context_parallel
from megacpt.model.microbatch import host_microbatch
from megacpt.samples.batch import Batch
from megacpt.tokenizer import Tokenizer

LENGTH_MULTIPLE = 16
"""Padded lengths are multiples of this, so that few shapes occur."""


def generate(
    chunks: Sequence[Any],
    *,
    prompts: Sequence[str],
    tokenizer: Tokenizer,
    max_new_tokens: int,
    sequence_length: int,
    device: torch.device,
    repetition_penalty: float = 1.0,
) -> list[dict[str, str]]:
    """Greedy continuations, cut at the end-of-text token; the same on every rank.

    ``repetition_penalty`` is that of transformers.
    """
    rows = [[int(t) for t in tokenizer.encode(prompt)] for prompt in prompts]
    starts = [len(row) for row in rows]
    with evaluating(chunks):
        for _ in range(max_new_tokens):
            _append_next(
                chunks,
                rows=rows,
                sequence_length=sequence_length,
                repetition_penalty=repetition_penalty,
                device=device,
            )
    texts = [
        tokenizer.decode(_until_eos(row[start:], eos_id=tokenizer.eos_id))
        for row, start in zip(rows, starts, strict=True)
    ]
    return [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]


def _append_next(
    chunks: Sequence[Any],
    *,
    rows: list[list[int]],
    sequence_length: int,
    repetition_penalty: float,
    device: torch.device,
) -> None:
    """Append the most likely next token to every row, seen through a window of the run's length."""
    windows = [row[-sequence_length:] for row in rows]
    batch = host_microbatch(
        _padded(windows, on_gpu=device.type != "cpu"), document_mask=False, device=device
    )
    logits_BSV = run_logits(chunks, batch=batch.to(device))
    next_B = torch.zeros(len(rows), dtype=torch.int64, device=device)
    if logits_BSV is not None:
        last_BV = torch.stack([logits_BSV[n, len(w) - 1] for n, w in enumerate(windows)])
        last_BV = gather_from_tensor_model_parallel_region(last_BV).float()
        for logits_V, row in zip(last_BV, rows, strict=True):
            _penalise(logits_V, ids=row, penalty=repetition_penalty)
        next_B += last_BV.argmax(dim=-1)
        if parallel_state.get_tensor_model_parallel_rank() != 0:
            next_B.zero_()
    if parallel_state.get_data_parallel_rank(with_context_parallel=True) != 0:
        next_B.zero_()
    torch.distributed.all_reduce(next_B)
    for row, token in zip(rows, next_B.tolist(), strict=True):
        row.append(int(token))


def _penalise(logits_V: torch.Tensor, *, ids: list[int], penalty: float) -> None:
    """Make the tokens that are there less likely, in place."""
    there = torch.tensor(sorted(set(ids)), device=logits_V.device)
    logits = logits_V[there]
    logits_V[there] = torch.where(logits < 0, logits * penalty, logits / penalty)


def _padded(windows: Sequence[Sequence[int]], *, on_gpu: bool) -> Batch:
    """Right-padded with token 0: with causal attention nothing before it can see it."""
    longest = max(len(w) for w in windows)
    unit = math.lcm(LENGTH_MULTIPLE, 2 * context_parallel.size() * _tp_size())
    if on_gpu:
        # Quantised products want multiples of up to 32 tokens on every rank.
        unit = 32 * context_parallel.size() * _tp_size()
    length = -(-longest // unit) * unit
    bounds = np.array([0, length], dtype=np.int32)
    tokens_BS = np.zeros((len(windows), length), dtype=np.int64)
    for n, window in enumerate(windows):
        tokens_BS[n, : len(window)] = window
    return Batch(
        tokens_BS=tokens_BS,
        labels_BS=tokens_BS,
        loss_mask_BS=np.zeros(tokens_BS.shape, dtype=np.float32),
        positions_BS=np.tile(np.arange(length), (len(windows), 1)),
        source_ids_B=np.zeros(len(windows), dtype=np.int64),
        cu_seqlens=(bounds,) * len(windows),
    )


def _tp_size() -> int:
    """Tensor-parallel ranks; with sequence parallelism they divide a length, too."""
    return int(parallel_state.get_tensor_model_parallel_world_size())


def _until_eos(tokens: list[int], *, eos_id: int | None) -> list[int]:
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens
