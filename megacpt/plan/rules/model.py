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


_SLOPE = 1.702
"""Of the fused kernel."""
_BALANCE_MAX = 0.1


def lacking_on_gpus(model: Architecture) -> Iterator[str]:
    """What the model has and the layers of GPUs do not compute."""
    if (glu := model.bounded_glu) is not None and glu.slope != _SLOPE:
        yield f"an activation of another slope than {_SLOPE} (swiglu_alpha={glu.slope})"


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
    if model.sinks and facts.config.parallel.cp > 1:
        yield Violation(
            path="parallel.cp",
            value=facts.config.parallel.cp,
            rule="cuts samples, but Transformer Engine has no sinks, as this "
            f"{model.family} has, for the way in which they are cut",
            remedy="use parallel.cp=1",
        )


def _balance(facts: Facts) -> Iterator[Violation]:
    """The published folders of gpt-oss state 0.9, which transformers had by default and no one has
    trained with."""
    model = facts.architecture
    if model is None or model.experts is None:
        return
    stated = model.experts.balance_coefficient
    if facts.config.model.router_aux_loss_coef is None and stated > _BALANCE_MAX:
        yield Violation(
            path="model.router_aux_loss_coef",
            value="null",
            rule=f"takes the {stated} of config.json for weight of the balancing loss, which would "
            "outweigh that of the text (most models state 0.001 to 0.02)",
            remedy=f"set model.router_aux_loss_coef=0.001, 0 for none, or {stated} to have it so",
        )


def _chunks_on_gpus(facts: Facts) -> Iterator[Violation]:
    model = facts.architecture
    if model is None or facts.config.cluster.device is not DeviceKind.gpu:
        return
    chunk = model.attention_chunk
    for path, length in sequence_lengths(facts.config.data).items():
        if chunk is not None and length > chunk:
            yield Violation(
                path=path,
                value=length,
                rule=f"is above attention_chunk_size={chunk} of the model, and the layers of GPUs "
                "do not cut samples into chunks",
                remedy=f"use {chunk} or less, or cluster.device=cpu",
            )


RULES: tuple[Rule, ...] = (_named, _positions, _tokens, _on_gpus, _balance, _chunks_on_gpus)
