# SPDX-License-Identifier: Apache-2.0
"""Parameters and operations of a model: sums over the rows of its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache

from megacpt.families import param_rows
from megacpt.families.adapter import adapter_rows, is_trained
from megacpt.families.architecture import Architecture, DeltaNet
from megacpt.families.weights import Param, Role


def num_parameters(architecture: Architecture) -> int:
    """Every weight once; a tied output layer is not counted twice."""
    return sum(row.num_values(architecture) for row in param_rows(architecture))


def num_trained_parameters(architecture: Architecture) -> int:
    """Those that learn: with an adapter its own, and tables that are trained beside it."""
    rows = (*param_rows(architecture), *adapter_rows(architecture))
    return sum(
        row.num_values(architecture) for row in rows if is_trained(row, architecture=architecture)
    )


def num_active_parameters(architecture: Architecture) -> int:
    """Those that one token passes: its own experts only."""
    return _num_active(param_rows(architecture), architecture=architecture)


def first_trained_layer(architecture: Architecture) -> int:
    """From 0; the backward pass ends there."""
    adapter = architecture.adapter
    if adapter is None or adapter.embedding:
        return 0
    rows = adapter_rows(architecture)
    return min((row.layers(architecture)[0] for row in rows), default=architecture.num_layers)


@cache
def training_flops_per_token(architecture: Architecture, *, sequence_length: int) -> float:
    """Forward and backward floating point operations of one token, causal attention counted at half
    of the full square (PaLM, appendix B, https://arxiv.org/abs/2204.02311), less what a window
    or a chunk cuts off it; of the experts, those of the token. A gated delta net reads and writes a
    state. Weights that an adapter leaves frozen have no gradient, and layers below the first that
    learns have no backward pass."""
    first = first_trained_layer(architecture)
    return _forward_and_backward(
        architecture, layers=range(first, architecture.num_layers), sequence_length=sequence_length
    ) + _forward(architecture, layers=range(first), sequence_length=sequence_length)


def _forward_and_backward(
    architecture: Architecture, *, layers: range, sequence_length: int
) -> float:
    """Of these layers and the head."""
    weights = sum(
        (6.0 if is_trained(row, architecture=architecture) else 4.0)
        * _num_active([row], architecture=architecture, layers=layers)
        for row in _products(architecture)
    )
    return weights + 6.0 * _between(architecture, layers=layers, sequence_length=sequence_length)


def _forward(architecture: Architecture, *, layers: range, sequence_length: int) -> float:
    rows = [row for row in _products(architecture) if row.per_layer]
    weights = _num_active(rows, architecture=architecture, layers=layers)
    return 2.0 * (weights + _between(architecture, layers=layers, sequence_length=sequence_length))


def _products(architecture: Architecture) -> list[Param]:
    """The weights that a token is multiplied with."""
    # Looking up an embedding is no operation; as a tied head the same table is one.
    head = Role.embedding if architecture.tied_embeddings else Role.head
    roles = (Role.linear, Role.router, Role.factor, Role.factor_out, Role.start, head)
    rows = (*param_rows(architecture), *adapter_rows(architecture))
    return [row for row in rows if row.role in roles]


def _between(architecture: Architecture, *, layers: range, sequence_length: int) -> float:
    """Products of a token with other tokens, or with what is kept of them."""
    net = architecture.delta_net
    of_net = set(layers).intersection(net.layers if net else ())
    seen = ((architecture.window(n), architecture.chunk(n)) for n in set(layers) - of_net)
    keys = sum(_twice_keys(sequence_length, window=window, chunk=chunk) for window, chunk in seen)
    states = len(of_net) * _state_values(net) if net else 0
    return architecture.attention_size * keys + states


def _state_values(net: DeltaNet) -> int:
    """Of a layer's state, three times: read by the key, written, read by the query."""
    return 3 * net.value_heads * net.key_dim * net.value_dim


def _twice_keys(sequence_length: int, *, window: int | None, chunk: int | None) -> float:
    """Twice the keys that a token sees on average."""
    if chunk is not None:
        chunks, rest = divmod(sequence_length, chunk)
        return (chunks * chunk**2 + rest**2) / max(sequence_length, 1)
    unseen = max(sequence_length - (window or sequence_length), 0)
    return sequence_length - unseen**2 / max(sequence_length, 1)


def _num_active(
    rows: Iterable[Param], *, architecture: Architecture, layers: Collection[int] | None = None
) -> int:
    total = 0
    for row in rows:
        values = row.num_values(architecture, layers=layers)
        if row.per_expert and architecture.experts is not None:
            values = values // architecture.experts.num * architecture.experts.per_token
        total += values
    return total
