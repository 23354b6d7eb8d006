# SPDX-License-Identifier: Apache-2.0
"""What ``checkpoint.load`` may ask for together, whatever ``checkpoint.load_from`` names."""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.config.sections import LoadConfig, RunConfig, SampleOrder
from megacpt.errors import Violation

PARTS = ("weights", "optimizer", "schedule", "data")


def taken(load: LoadConfig) -> list[str]:
    """The parts that are asked for, in words of the settings."""
    return [name for name in PARTS if getattr(load, name)]


def load_violations(config: RunConfig) -> Iterator[Violation]:
    load = config.checkpoint.load
    if config.checkpoint.load_from is None:
        yield from _without_source(load)
        return
    if not taken(load):
        yield Violation(
            path="checkpoint.load_from",
            value=config.checkpoint.load_from,
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
    if load.schedule is not load.data and config.data.order is SampleOrder.megatron:
        yield Violation(
            path="checkpoint.load.data",
            value=str(load.data).lower(),
            rule="differs from checkpoint.load.schedule, but with data.order=megatron the samples "
            "are counted by the steps of the schedule",
            remedy=f"set checkpoint.load.data={str(load.schedule).lower()} or data.order=keyed",
        )


def _without_source(load: LoadConfig) -> Iterator[Violation]:
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
