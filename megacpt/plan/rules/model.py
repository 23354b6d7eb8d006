# SPDX-License-Identifier: Apache-2.0
"""What the model asks of the settings: a name, and samples no longer than it can see."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule
from megacpt.plan.rules.data import sequence_lengths


def _named(facts: Facts) -> Iterator[Violation]:
    if not facts.config.model.path:
        yield Violation(
            path="model.path",
            value="null",
            rule="names no model",
            remedy="set model.path=FOLDER, a Hugging Face folder with config.json",
        )


def _positions(facts: Facts) -> Iterator[Violation]:
    """Attention here sees the whole sample, so a window that would cut it changes the model."""
    model = facts.architecture
    if model is None:
        return
    limits = {
        f"max_position_embeddings={model.max_positions} of the model": model.max_positions,
        f"the model's sliding_window={model.sliding_window}, which is not applied": (
            model.sliding_window
        ),
    }
    for words, longest in limits.items():
        for path, length in sequence_lengths(facts.config.data).items():
            if longest is not None and length > longest:
                yield Violation(
                    path=path,
                    value=length,
                    rule=f"is above {words}",
                    remedy=f"use {longest} or less",
                )


RULES: tuple[Rule, ...] = (_named, _positions)
