# SPDX-License-Identifier: Apache-2.0
"""Parameters and operations of a model: sums over the rows of its weights."""

from __future__ import annotations

from collections.abc import Iterable

from megacpt.families import param_rows
from megacpt.families.architecture import Architecture, DeltaNet
from megacpt.families.weights import Param, Role


def num_parameters(architecture: Architecture) -> int:
    """Every weight once; a tied output layer is not counted twice."""
    return sum(row.num_values(architecture) for row in param_rows(architecture))


def num_expert_parameters(architecture: Architecture) -> int:
    """All experts of all layers; 0 in a dense model."""
    return sum(row.num_values(architecture) for row in param_rows(architecture) if row.per_expert)


def num_active_parameters(architecture: Architecture) -> int:
    """Those that one token passes: its own experts only."""
    return _num_active(param_rows(architecture), architecture=architecture)


def training_flops_per_token(architecture: Architecture, *, sequence_length: int) -> float:
    """Forward and backward floating point operations of one token, causal attention counted at half
    of the full square (PaLM, appendix B, https://arxiv.org/abs/2204.02311), less what a window
    or a chunk cuts off it; of the experts, those of the token. A gated delta net reads and writes a
    state."""
    # Looking up an embedding is no operation; as a tied head the same table is one.
    head = Role.embedding if architecture.tied_embeddings else Role.head
    products = (r for r in param_rows(architecture) if r.role in (Role.linear, Role.router, head))
    weights = _num_active(products, architecture=architecture)
    net = architecture.delta_net
    layers = set(range(architecture.num_layers)).difference(net.layers if net else ())
    seen = ((architecture.window(layer), architecture.chunk(layer)) for layer in layers)
    keys = sum(_twice_keys(sequence_length, window=window, chunk=chunk) for window, chunk in seen)
    attention = architecture.attention_size * keys
    return 6.0 * (weights + attention + (_state_values(net) if net else 0))


def _state_values(net: DeltaNet) -> int:
    """Of all layers' states, three times: read by the key, written, read by the query."""
    return 3 * len(net.layers) * net.value_heads * net.key_dim * net.value_dim


def _twice_keys(sequence_length: int, *, window: int | None, chunk: int | None) -> float:
    """Twice the keys that a token sees on average."""
    if chunk is not None:
        chunks, rest = divmod(sequence_length, chunk)
        return (chunks * chunk**2 + rest**2) / max(sequence_length, 1)
    unseen = max(sequence_length - (window or sequence_length), 0)
    return sequence_length - unseen**2 / max(sequence_length, 1)


def _num_active(rows: Iterable[Param], *, architecture: Architecture) -> int:
    total = 0
    for row in rows:
        values = row.num_values(architecture)
        if row.per_expert and architecture.experts is not None:
            values = values // architecture.experts.num * architecture.experts.per_token
        total += values
    return total
