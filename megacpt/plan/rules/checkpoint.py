# SPDX-License-Identifier: Apache-2.0
"""What ``checkpoint.load`` may ask for together, and what the best checkpoint is chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterator

from megacpt.config.sections import LoadConfig, SampleOrder
from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule

PARTS = ("weights", "optimizer", "schedule", "data")


def taken(load: LoadConfig) -> list[str]:
    """The parts that are asked for, in words of the settings."""
    return [name for name in PARTS if getattr(load, name)]


def _load(facts: Facts) -> Iterator[Violation]:
    load, load_from = facts.config.checkpoint.load, facts.config.checkpoint.load_from
    if load_from is None:
        yield from _nothing_to_load(load)
        return
    if not taken(load):
        yield Violation(
            path="checkpoint.load_from",
            value=load_from,
            rule="is read for nothing: each part of checkpoint.load is false",
            remedy=f"set one of {', '.join(PARTS)} in checkpoint.load, or load_from=null",
        )
    if load.optimizer and not load.weights:
        yield Violation(
            path="checkpoint.load.optimizer",
            value="true",
            rule="would put the moments of one model on the weights of another",
            remedy="set checkpoint.load.weights=true or checkpoint.load.optimizer=false",
        )
    if load.schedule is not load.data and facts.config.data.order is SampleOrder.megatron:
        yield Violation(
            path="checkpoint.load.data",
            value=str(load.data).lower(),
            rule="differs from checkpoint.load.schedule, but with data.order=megatron the samples "
            "are counted by the steps of the schedule",
            remedy=f"set checkpoint.load.data={str(load.schedule).lower()} or data.order=keyed",
        )


def _nothing_to_load(load: LoadConfig) -> Iterator[Violation]:
    standard = LoadConfig()
    for name in PARTS:
        value = getattr(load, name)
        if value != getattr(standard, name):
            yield Violation(
                path=f"checkpoint.load.{name}",
                value=str(value).lower(),
                rule="needs checkpoint.load_from",
                remedy="name another run's folder there; to go on with this run, nothing is needed",
            )


def _best(facts: Facts) -> Iterator[Violation]:
    """The best of what was measured: without a held-out set, or a save where one is due, none."""
    evaluate, every = facts.config.evaluate, facts.config.checkpoint.every_steps
    if not facts.config.checkpoint.keep_best or every < 1 or evaluate.every_steps < 1:
        return
    if evaluate.domain is None and evaluate.general is None:
        yield Violation(
            path="checkpoint.keep_best",
            value=True,
            rule="needs a held-out set to compare by",
            remedy="name one of evaluate.heldout as evaluate.domain",
        )
    elif (
        math.lcm(every, evaluate.every_steps) > facts.config.schedule.steps
        and not facts.config.schedule.is_open
    ):
        yield Violation(
            path="checkpoint.keep_best",
            value=True,
            rule=f"never meets a step that is both saved (every {every}) and measured "
            f"(evaluate.every_steps={evaluate.every_steps})",
            remedy="let evaluate.every_steps divide checkpoint.every_steps",
        )


RULES: tuple[Rule, ...] = (_load, _best)
