# SPDX-License-Identifier: Apache-2.0
"""Rules of optimizer and learning rate, and advice: what may be meant but has gone wrong before.

The range and the fifth are what continued pretraining has settled on: a rate 5 to 10 times below
the peak of the base model's own pretraining, 5e-6 to 5e-5 for models of some billion parameters,
reached by warmup. Re-warming to the full peak undoes what the base model knows (Gupta et al.,
https://arxiv.org/abs/2308.04014; Ibrahim et al., https://arxiv.org/abs/2403.08763).
"""

from __future__ import annotations

from collections.abc import Iterator

from megacpt.config.sections import STEPS, LrShape, Optimizer, RunConfig
from megacpt.errors import Violation
from megacpt.plan.learning_rate import DECAYING
from megacpt.plan.rules import Facts, Rule

USUAL_PEAKS = (5e-6, 5e-5)
USUAL_PEAKS_OF_ADAPTERS = (5e-5, 5e-4)
LARGEST_PART_OF_BASE = 0.2


def advice(config: RunConfig) -> Iterator[str]:
    """Sentences for the user; nothing here stops a run."""
    optim, schedule = config.optim, config.schedule
    full = config.adapter is None
    lowest, highest = USUAL_PEAKS if full else USUAL_PEAKS_OF_ADAPTERS
    most = LARGEST_PART_OF_BASE * optim.base_lr_peak if full and optim.base_lr_peak else None
    if most is not None and optim.lr_peak > most:
        yield (
            f"optim.lr_peak={optim.lr_peak:g} is more than a fifth of "
            f"optim.base_lr_peak={optim.base_lr_peak:g}, so the base model may forget much; "
            f"{most / 2:.2g} to {most:.2g} is usual."
        )
    if not lowest <= optim.lr_peak <= highest:
        yield (
            f"optim.lr_peak={optim.lr_peak:g} is outside {lowest:g} to {highest:g}, "
            f"which is usual for {'continued pretraining' if full else 'adapters'}."
        )
    if schedule.warmup_steps == 0:
        yield (
            "schedule.warmup_steps=0 starts at the peak with an optimizer that knows no gradient "
            f"yet; {max(schedule.steps // 100, 1)} to {max(schedule.steps // 20, 1)} steps "
            "(1 to 5 %) is usual."
        )


def _schedule(facts: Facts) -> Iterator[Violation]:
    """What the shape needs, and what it would leave unused."""
    schedule = facts.config.schedule
    if schedule.is_open:
        return
    if schedule.steps == 0:
        yield STEPS.violation("schedule.steps", value=0)
    shape = schedule.shape.name
    if schedule.warmup_steps >= schedule.steps >= 1:
        yield Violation(
            path="schedule.warmup_steps",
            value=schedule.warmup_steps,
            rule=f"leaves no step after warmup, with schedule.steps={schedule.steps}",
            remedy=f"use at most {schedule.steps - 1}, or more steps",
        )
    if schedule.lr_final_fraction is not None and schedule.shape not in DECAYING:
        yield Violation(
            path="schedule.lr_final_fraction",
            value=schedule.lr_final_fraction,
            rule=f"is not used by schedule.shape={shape}",
            remedy="use null, or a shape that decays: cosine, linear or wsd",
        )
    if schedule.shape is not LrShape.wsd and schedule.decay_steps != 0:
        yield Violation(
            path="schedule.decay_steps",
            value=schedule.decay_steps,
            rule=f"is not used by schedule.shape={shape}",
            remedy="use 0 or schedule.shape=wsd",
        )
    room = schedule.steps - schedule.warmup_steps
    if schedule.shape is LrShape.wsd and room >= 1 and not 1 <= schedule.decay_steps <= room:
        yield Violation(
            path="schedule.decay_steps",
            value=schedule.decay_steps,
            rule=f"is not among the {room} steps after warmup",
            remedy=f"use 1 to {room}; {max(min(schedule.steps // 5, room), 1)} is usual",
        )


def _optimizer(facts: Facts) -> Iterator[Violation]:
    optim, architecture = facts.config.optim, facts.architecture
    tied = architecture is not None and architecture.tied_embeddings
    if optim.head_lr_multiplier != 1.0 and tied:
        yield Violation(
            path="optim.head_lr_multiplier",
            value=optim.head_lr_multiplier,
            rule="has no tensor of its own: the model's head is its embedding",
            remedy="use 1, and optim.embedding_lr_multiplier for both",
        )


def _muon(facts: Facts) -> Iterator[Violation]:
    optim, parallel = facts.config.optim, facts.config.parallel
    if optim.optimizer is not Optimizer.muon:
        return
    for path, is_set in {
        "parallel.distributed_optimizer": parallel.distributed_optimizer,
        "parallel.sharded_weights": parallel.sharded_weights,
        "optim.offload": optim.offload,
    }.items():
        if is_set:
            yield Violation(
                path=path,
                value="true",
                rule="cuts matrices that optim.optimizer=muon needs whole",
                remedy=f"use {path}=false or optim.optimizer=adamw",
            )


def _sharding(facts: Facts) -> Iterator[Violation]:
    """ZeRO-3, and optimizer state in host memory."""
    parallel, optim = facts.config.parallel, facts.config.optim
    if parallel.sharded_weights:
        yield from _zero3(facts.config)
    if optim.offload and not parallel.distributed_optimizer and not parallel.sharded_weights:
        yield Violation(
            path="optim.offload",
            value="true",
            rule="needs parallel.distributed_optimizer",
            remedy="set parallel.distributed_optimizer=true (parallel.dp=1 is enough)",
        )


def _zero3(config: RunConfig) -> Iterator[Violation]:
    parallel = config.parallel
    for path, value, allowed, reason in (
        ("parallel.pp", parallel.pp, 1, "gathers each layer once a microbatch and direction"),
        ("parallel.ep", parallel.ep, 1, "cuts experts over the same ranks as all else"),
        ("parallel.distributed_optimizer", parallel.distributed_optimizer, False, _SHARDS),
        ("parallel.overlap_grad_reduce", parallel.overlap_grad_reduce, False, _OVERLAPS),
        ("parallel.overlap_param_gather", parallel.overlap_param_gather, False, _OVERLAPS),
        ("optim.offload", config.optim.offload, False, "keeps its state with the weights"),
    ):
        if value != allowed:
            shown, wanted = str(value).lower(), str(allowed).lower()
            yield Violation(
                path=path,
                value=shown,
                rule=f"does not go with parallel.sharded_weights, which {reason}",
                remedy=f"use {path}={wanted} or parallel.sharded_weights=false",
            )


_SHARDS = "cuts the optimizer state as well"
_OVERLAPS = "always overlaps its own communication"

RULES: tuple[Rule, ...] = (_schedule, _optimizer, _muon, _sharding)
