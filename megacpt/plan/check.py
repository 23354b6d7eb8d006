# SPDX-License-Identifier: Apache-2.0
"""The rules that settings must keep together. Pure, and all broken ones are found at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from megacpt.config.sections import HeldoutConfig, RunConfig, SourceConfig
from megacpt.errors import ConfigError, Violation
from megacpt.families.architecture import Architecture
from megacpt.plan.learning_rate import final_fraction
from megacpt.plan.nearest_layout import as_text, nearest_layout
from megacpt.plan.rules.checkpoint import load_violations
from megacpt.plan.rules.cluster import launch_violations, slurm_violations
from megacpt.plan.rules.data import blend_violations, sequence_lengths
from megacpt.plan.rules.experts import expert_violations
from megacpt.plan.rules.faults import fault_violations
from megacpt.plan.rules.kernels import kernel_violations
from megacpt.plan.rules.optim import (
    optimizer_violations,
    schedule_violations,
    sharding_violations,
)
from megacpt.plan.rules.parallel import layout_violations
from megacpt.plan.rules.precision import precision_violations
from megacpt.plan.segments import (
    Segment,
    chunk_length,
    epoch_cap_violations,
    resolve,
    samples_per_epoch,
)

TOPICS = ("plant", "kitchen")
LAYOUT_SETTINGS = ("parallel.", "optim.offload")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the rules look at; ``None`` where not known yet, then its rules wait."""

    config: RunConfig
    architecture: Architecture | None
    shard_tokens: Mapping[str, int] | None
    num_ranks: int | None
    launched: bool = False

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Empty where the blend cannot be worked out: other rules say why."""
        data = self.config.data
        if not data.sources or data.global_batch_size < 1 or data.sequence_length < 1:
            return ()
        try:
            return resolve(data)
        except ConfigError:
            return ()


def violations(
    config: RunConfig,
    *,
    architecture: Architecture | None = None,
    shard_tokens: Mapping[str, int] | None = None,
    num_ranks: int | None = None,
    launched: bool = False,
) -> list[Violation]:
    """Every broken rule, those of the layout with the nearest layout that keeps all.

    ``shard_tokens``: tokens of each source; ``num_ranks``: those that torchrun or srun has started,
    where one of them has; ``launched``: Slurm will be asked for ``cluster.nodes``.
    """
    facts = _Facts(
        config=config,
        architecture=architecture,
        shard_tokens=shard_tokens,
        num_ranks=num_ranks,
        launched=launched,
    )
    of_layout, found = _layout_faults(facts), _broken(facts)
    hint = _layout_hint(facts) if of_layout else ""
    return [replace(v, remedy=v.remedy + hint) if v in of_layout else v for v in found]


def nearest_valid_layout(
    config: RunConfig, *, architecture: Architecture, num_ranks: int | None = None
) -> dict[str, Any] | None:
    """Setting -> value: the smallest change after which no rule of the layout is broken.

    Empty where none is now, None where no change in reach mends all.
    """
    return _nearest(
        _Facts(config=config, architecture=architecture, shard_tokens=None, num_ranks=num_ranks)
    )


def _broken(facts: _Facts) -> list[Violation]:
    return [violation for rule in RULES for violation in rule(facts)]


def _layout_faults(facts: _Facts) -> list[Violation]:
    """Those that a change of the layout, the batch or both can mend."""
    elsewhere = (v for rule in LAYOUT_RULES for v in rule(facts))
    return [*_layout(facts), *(v for v in elsewhere if v.path.startswith(LAYOUT_SETTINGS))]


def _layout_hint(facts: _Facts) -> str:
    """What is appended to a remedy; nothing where the model, and so its rules, are unknown."""
    settings = _nearest(facts)
    return f"; nearest valid layout: {as_text(settings)}" if settings else ""


def _nearest(facts: _Facts) -> dict[str, Any] | None:
    if facts.architecture is None:
        return None
    known = {(v.path, v.rule) for v in _broken(facts)}

    def accepts(config: RunConfig) -> bool:
        return all((v.path, v.rule) in known for v in _broken(replace(facts, config=config)))

    return nearest_layout(
        facts.config,
        architecture=facts.architecture,
        num_ranks=facts.num_ranks,
        faults=lambda config: _layout_faults(replace(facts, config=config)),
        accepts=accepts,
    )


def _positive(facts: _Facts) -> Iterator[Violation]:
    """Counts of at least one."""
    c = facts.config
    for path, value in {
        "data.sequence_length": c.data.sequence_length,
        "data.global_batch_size": c.data.global_batch_size,
        "data.micro_batch_size": c.data.micro_batch_size,
        "schedule.steps": c.schedule.steps,
        "checkpoint.every_steps": c.checkpoint.every_steps,
        "checkpoint.keep_last": c.checkpoint.keep_last,
        "monitor.log_every_steps": c.monitor.log_every_steps,
        "evaluate.every_steps": c.evaluate.every_steps,
        "evaluate.max_new_tokens": c.evaluate.max_new_tokens,
        "optim.muon.newton_schulz_steps": c.optim.muon.newton_schulz_steps,
    }.items():
        if value < 1:
            yield Violation(path=path, value=value, rule="is below 1", remedy="use 1 or more")


def _not_negative(facts: _Facts) -> Iterator[Violation]:
    c = facts.config
    values: dict[str, float] = {
        "seed": c.seed,
        "schedule.warmup_steps": c.schedule.warmup_steps,
        "schedule.decay_steps": c.schedule.decay_steps,
        "data.prefetch_steps": c.data.prefetch_steps,
        "optim.weight_decay": c.optim.weight_decay,
        "optim.clip_grad_norm": c.optim.clip_grad_norm,
        "optim.embedding_lr_multiplier": c.optim.embedding_lr_multiplier,
        "optim.head_lr_multiplier": c.optim.head_lr_multiplier,
        "optim.muon.lr_multiplier": c.optim.muon.lr_multiplier,
        "evaluate.generate_every_steps": c.evaluate.generate_every_steps,
        "checkpoint.keep_every_steps": c.checkpoint.keep_every_steps,
        "cluster.threads_per_rank": c.cluster.threads_per_rank,
        "cluster.preflight.disk_gib": c.cluster.preflight.disk_gib,
        "cluster.preflight.disk_mib_s": c.cluster.preflight.disk_mib_s,
        "cluster.preflight.shm_mib": c.cluster.preflight.shm_mib or 0.0,
        "cluster.preflight.link_mib_s": c.cluster.preflight.link_mib_s,
    }
    values |= {f"evaluate.heldout.{n}.max_tokens": h.max_tokens for n, h in _heldout(facts)}
    for path, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            yield Violation(path=path, value=value, rule="is below 0", remedy="use 0 or more")


def _above_zero(facts: _Facts) -> Iterator[Violation]:
    c = facts.config
    gate = c.evaluate.gate
    for path, value in {
        "optim.lr_peak": c.optim.lr_peak,
        "optim.eps": c.optim.eps,
        "optim.base_lr_peak": c.optim.base_lr_peak,
        "cluster.timeout_minutes": c.cluster.timeout_minutes,
        "cluster.preflight.appear_s": c.cluster.preflight.appear_s,
        "cluster.preflight.limit_s": c.cluster.preflight.limit_s,
        "cluster.preflight.clock_s": c.cluster.preflight.clock_s,
        "evaluate.gate.domain_perplexity_ratio_max": gate.domain_perplexity_ratio_max,
        "evaluate.gate.general_perplexity_ratio_max": gate.general_perplexity_ratio_max,
    }.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            yield Violation(
                path=path, value=value, rule="is not above 0", remedy="use a positive number"
            )


def _fractions(facts: _Facts) -> Iterator[Violation]:
    optim, schedule = facts.config.optim, facts.config.schedule
    for path, value in {
        "optim.beta1": optim.beta1,
        "optim.beta2": optim.beta2,
        "optim.muon.momentum": optim.muon.momentum,
    }.items():
        if not 0 <= value < 1:
            yield Violation(
                path=path, value=value, rule="is outside [0, 1)", remedy="0.9 to 0.999 is usual"
            )
    for path, fraction, usual in (
        ("schedule.lr_start_fraction", schedule.lr_start_fraction, "0"),
        ("schedule.lr_final_fraction", final_fraction(schedule), "0.1"),
        (
            "cluster.preflight.link_fraction",
            facts.config.cluster.preflight.link_fraction,
            "0.5",
        ),
    ):
        if not 0 <= fraction <= 1:
            yield Violation(
                path=path, value=fraction, rule="is outside [0, 1]", remedy=f"{usual} is usual"
            )


def _model_named(facts: _Facts) -> Iterator[Violation]:
    if not facts.config.model.path:
        yield Violation(
            path="model.path",
            value="null",
            rule="names no model",
            remedy="set model.path=FOLDER, a Hugging Face folder with config.json",
        )


def _layout(facts: _Facts) -> Iterator[Violation]:
    yield from layout_violations(
        facts.config, architecture=facts.architecture, num_ranks=facts.num_ranks
    )


def _sources(facts: _Facts) -> Iterator[Violation]:
    data = facts.config.data
    if not data.sources:
        yield Violation(
            path="data.sources",
            value="{}",
            rule="names no text to train on",
            remedy="set data.sources.NAME.prefix=SHARD, a shard written by megacpt tokenize",
        )
    for name, source in data.sources.items():
        path = f"data.sources.{name}"
        yield from _one_origin(path, item=source)
        if source.max_epochs is not None and not source.max_epochs > 0:
            yield Violation(
                path=f"{path}.max_epochs",
                value=source.max_epochs,
                rule="is not above 0",
                remedy=f"use a positive number, or {path}.max_epochs=null for no cap",
            )
    if data.sources:
        yield from blend_violations(data)


def _one_origin(path: str, *, item: SourceConfig | HeldoutConfig) -> Iterator[Violation]:
    if item.prefix and item.synthetic is not None:
        yield Violation(
            path=f"{path}.prefix",
            value=item.prefix,
            rule=f"is set beside {path}.synthetic",
            remedy=f"set {path}.synthetic=null to use the shard",
        )
    if not item.prefix and item.synthetic is None:
        yield Violation(
            path=f"{path}.prefix",
            value="null",
            rule="names no token shard",
            remedy=f"set {path}.prefix=SHARD, a shard written by megacpt tokenize",
        )
    if item.synthetic is not None and item.synthetic.topic not in TOPICS:
        yield Violation(
            path=f"{path}.synthetic.topic",
            value=item.synthetic.topic,
            rule="is not a topic of the generator",
            remedy=f"use {' or '.join(TOPICS)}",
        )
    if item.synthetic is not None and item.synthetic.documents < 1:
        yield Violation(
            path=f"{path}.synthetic.documents",
            value=item.synthetic.documents,
            rule="is below 1",
            remedy="use 1 or more",
        )


def _stages_begin_apart(facts: _Facts) -> Iterator[Violation]:
    data = facts.config.data
    if not data.sources or blend_violations(data) or data.global_batch_size < 1:
        return
    try:
        resolve(data)
    except ConfigError as error:
        yield from error.violations


def _replay_has_samples(facts: _Facts) -> Iterator[Violation]:
    """Each side of the replay share has at least one sample of every global batch."""
    data, replay = facts.config.data, facts.config.data.replay
    if replay is None:
        return
    for segment in facts.segments:
        share = float(segment.shares[replay.source])
        smaller, stage = min(share, 1 - share), data.stages.get(segment.name)
        if smaller * segment.global_batch_size < 1 - 1e-9:
            set_here = stage is not None and stage.replay_share is not None
            sized_here = stage is not None and stage.global_batch_size is not None
            path = f"data.stages.{segment.name}" if stage is not None else "data"
            batch = f"{path if sized_here else 'data'}.global_batch_size"
            yield Violation(
                path=f"{path}.replay_share" if set_here else "data.replay.share",
                value=share,
                rule="leaves less than one sample of a global batch for one side, "
                f"with {batch}={segment.global_batch_size}",
                remedy=f"use {batch}={math.ceil(1 / smaller - 1e-9)} or more",
            )


def _sequence_fits(facts: _Facts) -> Iterator[Violation]:
    architecture = facts.architecture
    for path, length in sequence_lengths(facts.config.data).items():
        if architecture is not None and length > architecture.max_positions:
            yield Violation(
                path=path,
                value=length,
                rule=f"is above max_position_embeddings={architecture.max_positions} of the model",
                remedy=f"use {architecture.max_positions} or less",
            )


def _shards_hold_a_sample(facts: _Facts) -> Iterator[Violation]:
    for path, length in sequence_lengths(facts.config.data).items():
        for name, tokens in (facts.shard_tokens or {}).items():
            if tokens < length + 1:
                yield Violation(
                    path=path,
                    value=length,
                    rule=f"needs {length + 1} tokens a sample, but source {name} holds {tokens}",
                    remedy=f"add text to {name}"
                    + (f" or use {tokens - 1} or less" if tokens > 2 else ""),
                )


def _epoch_caps(facts: _Facts) -> Iterator[Violation]:
    data, tokens = facts.config.data, facts.shard_tokens
    if tokens is None or not facts.segments or facts.config.schedule.steps < 1:
        return
    chunk = chunk_length(data)
    yield from epoch_cap_violations(
        data,
        segments=facts.segments,
        steps=facts.config.schedule.steps,
        epoch_samples=lambda name, length: samples_per_epoch(
            tokens[name], sequence_length=length, chunk_length=chunk
        ),
    )


def _schedule(facts: _Facts) -> Iterator[Violation]:
    schedule = facts.config.schedule
    if schedule.warmup_steps >= schedule.steps >= 1:
        yield Violation(
            path="schedule.warmup_steps",
            value=schedule.warmup_steps,
            rule=f"leaves no step after warmup, with schedule.steps={schedule.steps}",
            remedy=f"use at most {schedule.steps - 1}, or more steps",
        )


def _heldout(facts: _Facts) -> list[tuple[str, HeldoutConfig]]:
    return list(facts.config.evaluate.heldout.items())


def _heldout_sets(facts: _Facts) -> Iterator[Violation]:
    evaluate = facts.config.evaluate
    for name, heldout in _heldout(facts):
        yield from _one_origin(f"evaluate.heldout.{name}", item=heldout)
    for role, chosen in (("general", evaluate.general), ("domain", evaluate.domain)):
        if chosen is not None and chosen not in evaluate.heldout:
            known = ", ".join(evaluate.heldout)
            yield Violation(
                path=f"evaluate.{role}",
                value=chosen,
                rule=f"is not among evaluate.heldout ({known or 'none'})",
                remedy=f"set evaluate.heldout.{chosen}.prefix=SHARD"
                + (f" or name one of {known}" if known else ""),
            )


def _heldout_is_held_out(facts: _Facts) -> Iterator[Violation]:
    """A held-out set that is also trained on measures nothing."""
    sources = {_origin(source): name for name, source in facts.config.data.sources.items()}
    for name, heldout in _heldout(facts):
        source = sources.get(_origin(heldout))
        if source is not None:
            kind = "prefix" if heldout.prefix else "synthetic"
            yield Violation(
                path=f"evaluate.heldout.{name}.{kind}",
                value=heldout.prefix or heldout.synthetic,
                rule=f"is also trained on, as data.sources.{source}",
                remedy="hold out other documents",
            )


def _origin(item: SourceConfig | HeldoutConfig) -> tuple[object, ...]:
    if item.synthetic is not None and not item.prefix:
        return ("synthetic", item.synthetic.topic, item.synthetic.seed)
    return ("prefix", item.prefix or id(item))


def _gate_sets(facts: _Facts) -> Iterator[Violation]:
    evaluate = facts.config.evaluate
    thresholds = {
        "domain": (evaluate.domain, evaluate.gate.domain_perplexity_ratio_max),
        "general": (evaluate.general, evaluate.gate.general_perplexity_ratio_max),
    }
    for role, (name, threshold) in thresholds.items():
        if threshold is not None and name is None:
            yield Violation(
                path=f"evaluate.gate.{role}_perplexity_ratio_max",
                value=threshold,
                rule=f"needs a {role} set, but evaluate.{role} is not set",
                remedy=f"set evaluate.{role}=NAME, one of evaluate.heldout",
            )


def _names(facts: _Facts) -> Iterator[Violation]:
    """Names become file names and metric names."""
    for section, names in (
        ("data.sources", list(facts.config.data.sources)),
        ("data.stages", list(facts.config.data.stages)),
        ("evaluate.heldout", list(facts.config.evaluate.heldout)),
    ):
        for name in names:
            if not name.replace("_", "a").replace("-", "a").isalnum():
                yield Violation(
                    path=f"{section}.{name}",
                    value="{...}",
                    rule="has a name with other signs than letters, digits, _ and -",
                    remedy="rename it",
                )


def _kernels(facts: _Facts) -> Iterator[Violation]:
    yield from kernel_violations(facts.config)


def _precision(facts: _Facts) -> Iterator[Violation]:
    yield from precision_violations(facts.config, architecture=facts.architecture)


def _slurm(facts: _Facts) -> Iterator[Violation]:
    yield from slurm_violations(facts.config)
    if facts.launched:
        yield from launch_violations(facts.config)


def _kept_best(facts: _Facts) -> Iterator[Violation]:
    """The best of what was measured: without a held-out set, or a save where one is due, none."""
    config = facts.config
    evaluate, every = config.evaluate, config.checkpoint.every_steps
    if not config.checkpoint.keep_best or every < 1 or evaluate.every_steps < 1:
        return
    if evaluate.domain is None and evaluate.general is None:
        yield Violation(
            path="checkpoint.keep_best",
            value=True,
            rule="needs a held-out set to compare by",
            remedy="name one of evaluate.heldout as evaluate.domain",
        )
    elif math.lcm(every, evaluate.every_steps) > config.schedule.steps:
        yield Violation(
            path="checkpoint.keep_best",
            value=True,
            rule=f"never meets a step that is both saved (every {every}) and measured "
            f"(evaluate.every_steps={evaluate.every_steps})",
            remedy="let evaluate.every_steps divide checkpoint.every_steps",
        )


def _load(facts: _Facts) -> Iterator[Violation]:
    yield from load_violations(facts.config)


def _experts(facts: _Facts) -> Iterator[Violation]:
    yield from expert_violations(facts.config, architecture=facts.architecture)


def _faults(facts: _Facts) -> Iterator[Violation]:
    yield from fault_violations(facts.config)


LAYOUT_RULES: tuple[Callable[[_Facts], Iterator[Violation]], ...] = (
    _experts,
    optimizer_violations,
    sharding_violations,
)
"""Rules beside ``_layout`` that ask something of the layout; they are among RULES, too."""
RULES: tuple[Callable[[_Facts], Iterator[Violation]], ...] = (
    _positive,
    _not_negative,
    _above_zero,
    _fractions,
    _model_named,
    _layout,
    _sources,
    _stages_begin_apart,
    _replay_has_samples,
    _sequence_fits,
    _shards_hold_a_sample,
    _epoch_caps,
    _schedule,
    schedule_violations,
    optimizer_violations,
    sharding_violations,
    _heldout_sets,
    _heldout_is_held_out,
    _gate_sets,
    _names,
    _faults,
    _kernels,
    _precision,
    _experts,
    _load,
    _slurm,
    _kept_best,
)
