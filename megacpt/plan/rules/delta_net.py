# SPDX-License-Identifier: Apache-2.0
"""What a model with gated delta nets cannot do here."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule


def _delta_net(facts: Facts) -> Iterator[Violation]:
    if facts.architecture is None or facts.architecture.delta_net is None:
        return
    family, parallel = facts.architecture.family, facts.config.parallel
    if parallel.cp > 1:
        yield Violation(
            path="parallel.cp",
            value=parallel.cp,
            rule=f"cuts samples, but {family}'s gated delta nets read each from its beginning",
            remedy="use parallel.cp=1",
        )


RULES: tuple[Rule, ...] = (_delta_net,)
