# SPDX-License-Identifier: Apache-2.0
"""What a run that learns from conversations must keep."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.config.sections import Objective, Packing
from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule


def _conversations_stay_whole(facts: Facts) -> Iterator[Violation]:
    """A reply is learned from all that was said before it."""
    config = facts.config
    if config.objective is Objective.sft and config.data.packing is not Packing.best_fit:
        yield Violation(
            path="data.packing",
            value=config.data.packing.name,
            rule="cuts conversations wherever a sample ends, and objective=sft learns replies "
            "from what was said before them",
            remedy="use data.packing=best_fit",
        )


RULES: tuple[Rule, ...] = (_conversations_stay_whole,)
