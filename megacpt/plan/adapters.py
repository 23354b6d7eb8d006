# SPDX-License-Identifier: Apache-2.0
"""What a run's adapter is and how much of the model it trains, in one sentence for all readers."""

from __future__ import annotations

from megacpt.families.architecture import Adapter, Architecture
from megacpt.families.counts import num_parameters, num_trained_parameters
from megacpt.text import count, listed

_NAMES = {"lora": "LoRA", "dora": "DoRA", "lora_xs": "LoRA-XS", "pissa": "PiSSA"}


def adapter_sentence(architecture: Architecture) -> str | None:
    """``LoRA, rank 16, alpha 32: 4.88M of 134.52M parameters trained (3.6 %)``; ``None`` where all
    weights are."""
    adapter = architecture.adapter
    if adapter is None:
        return None
    beside = (("the embedding", adapter.embedding), ("the head", adapter.head))
    tables = [name for name, is_trained in beside if is_trained]
    with_tables = f", and {listed(tables)}" if tables else ""
    if tables and adapter.new_tokens_from is not None:
        with_tables += f" from token {adapter.new_tokens_from} on"
    frozen_rows = len(tables) * (adapter.new_tokens_from or 0)
    trained = num_trained_parameters(architecture) - frozen_rows * architecture.hidden_size
    base = num_parameters(architecture)
    return (
        f"{_name(adapter)}, rank {adapter.rank}, alpha {adapter.alpha:g}{with_tables}: "
        f"{count(trained, digits=2)} of {count(base, digits=2)} parameters trained "
        f"({100 * trained / base:.2g} %)"
    )


def _name(adapter: Adapter) -> str:
    if not adapter.rank_stabilised:
        return _NAMES[adapter.method]
    return "rsLoRA" if adapter.method == "lora" else f"rank-stabilised {_NAMES[adapter.method]}"
