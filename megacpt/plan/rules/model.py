# SPDX-License-Identifier: Apache-2.0
"""What the model asks of the settings: a name, and samples no longer than it can see."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.config.sections import DeviceKind, Init
from megacpt.errors import Violation
from megacpt.families.architecture import Architecture
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
    model = facts.architecture
    if model is None:
        return
    longest = model.max_positions
    for path, length in sequence_lengths(facts.config.data).items():
        if length > longest:
            yield Violation(
                path=path,
                value=length,
                rule=f"is above max_position_embeddings={longest} of the model",
                remedy=f"use {longest} or less",
            )


def _tokens(facts: Facts) -> Iterator[Violation]:
    """What else would end a run late: in the middle of an epoch, or before its first step."""
    model, tokenizer, settings = facts.architecture, facts.tokenizer, facts.config.model
    if model is None or tokenizer is None or settings.allow_unhealthy:
        return
    if tokenizer.vocab_size > model.vocab_size:
        yield Violation(
            path="model.path",
            value=settings.path,
            rule=f"has a tokenizer of {tokenizer.vocab_size} ids, but a vocab_size of "
            f"{model.vocab_size} rows, and text may hold any of the ids",
            remedy="use the tokenizer of this model, or resize its embeddings "
            "(model.allow_unhealthy=true, where no text holds those ids)",
        )
    if tokenizer.eos_id is None and settings.init is not Init.random:
        yield Violation(
            path="model.path",
            value=settings.path,
            rule="has a tokenizer that states no end-of-text token, so documents cannot be told "
            "apart",
            remedy="set eos_token in its tokenizer_config.json (model.allow_unhealthy=true trains "
            "without)",
        )


def lacking_on_gpus(model: Architecture) -> Iterator[str]:
    """What the model has and the layers of GPUs do not compute."""
    yield from ()  # nothing yet of what the families have


def _on_gpus(facts: Facts) -> Iterator[Violation]:
    model = facts.architecture
    if model is None or facts.config.cluster.device is not DeviceKind.gpu:
        return
    for what in lacking_on_gpus(model):
        yield Violation(
            path="cluster.device",
            value="gpu",
            rule=f"has no layers for a {model.family} model, which has {what}",
            remedy="use cluster.device=cpu, or a model without",
        )


RULES: tuple[Rule, ...] = (_named, _positions, _tokens, _on_gpus)
