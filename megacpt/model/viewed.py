# SPDX-License-Identifier: Apache-2.0
"""A row whose tokens do not simply follow one another: told to attention and rotary positions.

megatron-core passes neither through its layers to a core attention of one's own, so both are set
on the modules for the time of a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_layer import TransformerLayer

from megacpt.model.layers.attention import context_parallel
from megacpt.model.layers.attention.causal import CausalAttention, View
from megacpt.model.layers.attention.rope import Ropes
from megacpt.model.layers.attention.rotation import RotatedAttention


@contextmanager
def viewed(chunks: Sequence[Any], *, view: View) -> Iterator[None]:
    """Rows of the tokens that ``view`` is about; one row a pass."""
    modules = [module for chunk in chunks for module in chunk.modules()]
    attentions = [module for module in modules if isinstance(module, CausalAttention)]
    ropes = [module for module in modules if isinstance(module, Ropes)]
    for attention in attentions:
        attention.view = view
    for rope in ropes:
        rope.positions_T = view.positions_T
    try:
        yield
    finally:
        for attention in attentions:
            attention.view = None
        for rope in ropes:
            rope.positions_T = None


def can_be_viewed(chunks: Sequence[Any]) -> bool:
    """Whether all layers of all stages can; a collective call.

    Not those that keep a state along the row, attention that is not ours (Transformer Engine's,
    latent attention), positions that depend on a text's whole length, nor a row that is cut over
    ranks.
    """
    device = next(chunks[0].parameters()).device
    layers = [m for c in chunks for m in c.modules() if isinstance(m, TransformerLayer)]
    can = context_parallel.size() == 1 and all(_can(layer.self_attention) for layer in layers)
    agreed = torch.tensor(int(can), device=device)
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
    return bool(agreed)


def _can(attention: Any) -> bool:
    if isinstance(attention, RotatedAttention):
        rotation = attention.rotation
        if rotation.long_angles is not None or rotation.growth is not None:
            return False
    return isinstance(attention, SelfAttention) and isinstance(
        attention.core_attention, CausalAttention
    )


def row_multiple(device: torch.device) -> int:
    """Tokens of a row are a multiple of this: sequence parallelism cuts it, and quantised products
    of GPUs want 32 on each rank."""
    ranks = int(parallel_state.get_tensor_model_parallel_world_size())
    return ranks if device.type == "cpu" else 32 * ranks
