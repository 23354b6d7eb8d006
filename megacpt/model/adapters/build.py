# SPDX-License-Identifier: Apache-2.0
"""Put an adapter into a rank's chunks: factors in, everything else frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.extensions.transformer_engine import (
    HAVE_TE,
    TEColumnParallelLinear,
    TEGroupedLinear,
    TERowParallelLinear,
)
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from megacpt.errors import ModelError
from megacpt.families.adapter import Linear, adapted_linears, is_trained
from megacpt.families.architecture import Architecture
from megacpt.model.adapters.beside import BesideExperts, BesideLinear
from megacpt.model.adapters.linear import AdaptedLayer
from megacpt.model.placement import Placed, layer_of, pattern_of, placed_params

OVER: dict[Any, Any] = {ColumnParallelLinear: AdaptedLayer, RowParallelLinear: AdaptedLayer}
"""What is laid over a layer of which class."""
if HAVE_TE:
    OVER |= {TEColumnParallelLinear: BesideLinear, TERowParallelLinear: BesideLinear}
    OVER |= {TEGroupedLinear: BesideExperts}


def add_adapter(chunks: Sequence[Any], *, architecture: Architecture) -> None:
    """Of weights whose rows have one, in the layers that do."""
    linears = {
        pattern_of(name): linear
        for linear in adapted_linears(architecture)
        for name in linear.layers
    }
    for chunk in chunks:
        for name, module in list(chunk.named_modules()):
            for matches, linear in linears.items():
                found = matches(name)
                if found is None:
                    continue
                if layer_of(chunk, found=found) in linear.row.layers(architecture):
                    _lay_over(module, linear=linear, architecture=architecture)


def _lay_over(layer: Any, *, linear: Linear, architecture: Architecture) -> None:
    """Give the layer factors, their values undefined."""
    over = next((ours for theirs, ours in OVER.items() if isinstance(layer, theirs)), None)
    if over is None:
        raise ModelError(
            f"adapter.targets names {linear.modules[0]}, whose layer ({type(layer).__name__}) "
            "cannot have an adapter here; leave it out."
        )
    layer.__class__ = type(f"Adapted{type(layer).__name__}", (over, type(layer)), {})
    layer.add_factors(linear, architecture=architecture)


def freeze(chunks: Sequence[Any], *, architecture: Architecture) -> None:
    """What is not trained takes no gradient; of that, what the base model's folder holds is not
    saved (megacpt.checkpoint.state)."""
    for placed in placed_params(chunks, architecture=architecture):
        trained = is_trained(placed.row, architecture=architecture)
        placed.tensor.requires_grad_(trained)
        if trained and not placed.row.of_adapter:
            placed.tensor.frozen_rows = _frozen_rows(  # type: ignore[attr-defined]
                placed, architecture=architecture
            )
        if not trained and not placed.row.of_adapter:
            placed.tensor.of_base = True  # type: ignore[attr-defined]


def _frozen_rows(placed: Placed, *, architecture: Architecture) -> int:
    """How many of this rank's rows, its first ones, are of tokens that are not trained."""
    adapter = architecture.adapter
    if adapter is None or adapter.new_tokens_from is None:
        return 0
    rows, first = len(placed.tensor), placed.cut.rank * len(placed.tensor)
    return min(max(adapter.new_tokens_from - first, 0), rows)


def let_recompute(chunk: Any) -> None:
    """Layers that are computed again get gradients only if their input has one, and what a frozen
    embedding gives has none."""
    if chunk.pre_process:
        chunk.embedding.register_forward_hook(lambda _, __, output: _with_gradient(output))


def _with_gradient(output: torch.Tensor) -> torch.Tensor:
    needs = torch.is_grad_enabled() and not output.requires_grad
    return output.requires_grad_() if needs else output
