# SPDX-License-Identifier: Apache-2.0
"""megatron-core's configuration of a layer whose attention is looked at alone."""

from __future__ import annotations

from typing import Any


def one_layer(
    *,
    heads: int,
    head_size: int,
    groups: int | None = None,
    window: int | None = None,
    **further: Any,
) -> Any:
    """``window``: tokens that a query sees, its own among them; None: all before it."""
    from megatron.core.transformer import TransformerConfig

    return TransformerConfig(
        num_layers=1,
        hidden_size=heads * head_size,
        num_attention_heads=heads,
        num_query_groups=groups,
        attention_dropout=0.0,
        window_size=None if window is None else (window - 1, 0),
        **further,
    )
