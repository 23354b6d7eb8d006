# SPDX-License-Identifier: Apache-2.0
"""The settings of the balance of sources."""

from __future__ import annotations

from dataclasses import dataclass, field

from megacpt.config.limits import COUNT, POSITIVE, limited


@dataclass(kw_only=True, slots=True)
class BudgetConfig:
    amount: int | None = limited(None, limits=COUNT)
    """Tokens of the source in the whole run, or bytes of text without ``balance.tokenizer``; not
    set: all it has, once. Of a general source, the most that may be used."""
    epochs: float | None = limited(None, limits=POSITIVE)
    """The same, in passes through a domain source; set this or ``amount``."""


@dataclass(kw_only=True, slots=True)
class BalanceConfig:
    ratio: float = limited(9.0, limits=POSITIVE)
    """Domain to general, 9 for 9:1, which replays a tenth; 4 to 20 is usual."""
    sources: dict[str, BudgetConfig] = field(default_factory=dict)
    """Budgets, by the names of the sources."""
    max_epochs: float = limited(4.0, limits=POSITIVE)
    """Most passes through a source: a budget beyond it is cut to it, and told."""
    tokenizer: str | None = None
    """Hugging Face folder or tokenizer file to count tokens with, on a sample; not set: bytes."""
    sample_mb: float = limited(16.0, limits=POSITIVE)
    """Of each source's files, about so much is encoded."""
    shards: str = "data"
    """Folder of the token shards that blend.yaml names."""
