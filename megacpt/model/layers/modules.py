# SPDX-License-Identifier: Apache-2.0
"""The classes that layers are made of: Transformer Engine's on GPUs, plain ones elsewhere.

Where Transformer Engine has none, megacpt's own serves both: torch's operations run on either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron.core.extensions.transformer_engine import (
    HAVE_TE,
    TEColumnParallelLinear,
    TEDotProductAttention,
    TENorm,
    TERowParallelLinear,
)
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from megacpt.config.sections import DeviceKind
from megacpt.errors import EnvironmentError_
from megacpt.families.architecture import Architecture
from megacpt.model.layers.attention.capped import capped_class
from megacpt.model.layers.attention.causal import CausalAttention
from megacpt.model.layers.attention.sinks import SinkAttention
from megacpt.model.layers.norm import norm_class


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """megatron-core builds all of them from its configuration and what it says besides."""

    column: Any
    """A linear layer whose outputs are cut over the tensor-parallel ranks."""
    row: Any
    """One whose inputs are."""
    norm: Any
    core_attention: Any
    """From queries, keys and values."""
    of_engine: bool
    """As far as Transformer Engine has them, they are its own."""

    @property
    def can_fuse_norms(self) -> bool:
        """Transformer Engine's linear layers can begin with such a norm."""
        return self.norm is TENorm


def modules_for(architecture: Architecture, *, kind: DeviceKind) -> Modules:
    cap, norms = architecture.scales.attention_cap, architecture.norms
    bounded = None if cap is None else capped_class(cap)
    plain = SinkAttention if architecture.sinks else CausalAttention
    if kind is not DeviceKind.gpu:
        return Modules(
            column=ColumnParallelLinear,
            row=RowParallelLinear,
            norm=norm_class(norms),
            core_attention=bounded or plain,
            of_engine=False,
        )
    if not HAVE_TE:
        raise EnvironmentError_(
            "Training on GPUs needs Transformer Engine, which this Python lacks; "
            "use NVIDIA's PyTorch container, or pip install 'megacpt[te]'."
        )
    return Modules(
        column=TEColumnParallelLinear,
        row=TERowParallelLinear,
        # Transformer Engine's LayerNorm always has a bias, which would be trained.
        norm=norm_class(norms) if norms.centred and not norms.bias else TENorm,
        core_attention=bounded or TEDotProductAttention,
        of_engine=True,
    )
