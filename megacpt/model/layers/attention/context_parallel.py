# SPDX-License-Identifier: Apache-2.0
"""How context parallelism cuts a sample: megatron-core's order, which is Transformer Engine's too.

A sample is cut into 2 * cp chunks and rank r holds chunks r and 2 * cp - 1 - r: one early and one
late, so that under a causal mask every rank has the same work.

Shapes: S all positions of a sample, C those of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region


def group() -> Any:
    return parallel_state.get_context_parallel_group()


def size() -> int:
    return int(parallel_state.get_context_parallel_world_size())


def own_chunks() -> tuple[int, int]:
    """The numbers of this rank's chunks, in the order in which it holds them."""
    rank = int(parallel_state.get_context_parallel_rank())
    return rank, 2 * size() - 1 - rank


def own_part(sample: torch.Tensor, *, dim: int) -> torch.Tensor:
    """This rank's chunks of whole samples, one after the other; a copy where there is a cut."""
    if size() == 1:
        return sample
    chunks = sample.chunk(2 * size(), dim=dim)
    return torch.cat([chunks[n] for n in own_chunks()], dim=dim)


def gather_S(part: torch.Tensor) -> torch.Tensor:
    """Whole samples in their own order, from every rank's part, along the first dimension.

    Differentiable: each rank's gradient of the whole is summed over the ranks and cut again.
    """
    if size() == 1:
        return part
    gathered = gather_from_sequence_parallel_region(part.contiguous(), group=group())
    chunks = gathered.chunk(2 * size())
    # Rank r's part brought chunk r at place 2r and chunk 2cp-1-r at place 2r+1.
    return torch.cat([*chunks[0::2], *reversed(chunks[1::2])])
