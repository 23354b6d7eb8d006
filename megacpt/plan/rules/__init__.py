# SPDX-License-Identifier: Apache-2.0
"""The rules that settings must keep together: one file a section, each with its list ``RULES``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from megacpt.config.limits import beyond_limits
from megacpt.config.sections import RunConfig
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture
from megacpt.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run; a rule about something that is ``None`` waits."""

    config: RunConfig
    architecture: Architecture | None = None
    tokenizer: Tokenizer | None = None
    shard_tokens: Mapping[str, int] | None = None
    """Tokens of each source."""
    num_ranks: int | None = None
    """Ranks that torchrun or srun has started."""
    launched: bool = False
    """Slurm will be asked for ``cluster.nodes``."""


Rule = Callable[[Facts], Iterator[Violation]]


def limits(facts: Facts) -> Iterator[Violation]:
    return beyond_limits(facts.config)


def layout_limits(facts: Facts) -> Iterator[Violation]:
    return beyond_limits(facts.config.parallel, prefix="parallel.")
