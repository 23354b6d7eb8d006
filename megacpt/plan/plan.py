# SPDX-License-Identifier: Apache-2.0
"""What a run will do, before any process exists: tokens, epochs, learning rates, memory, disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from megacpt.config.sections import DataConfig, ParallelConfig, RopeConfig, RunConfig
from megacpt.corpus.curation import TextOrigin
from megacpt.corpus.required import common
from megacpt.families.architecture import Architecture
from megacpt.families.counts import (
    num_active_parameters,
    num_parameters,
    num_trained_parameters,
    training_flops_per_token,
)
from megacpt.plan.adapters import adapter_sentence
from megacpt.plan.learning_rate import group_multipliers, learning_rate, shown_steps
from megacpt.plan.memory import RankMemory, checkpoint_bytes, rank_memory
from megacpt.plan.precision import weight_copy_bytes
from megacpt.plan.rules import adapter
from megacpt.plan.rules.data import longest
from megacpt.plan.rules.kernels import advice_for_gpus
from megacpt.plan.rules.optim import advice
from megacpt.plan.segments import (
    Segment,
    apportion,
    durations,
    epoch_samples_of,
    resolve,
    samples_asked,
)
from megacpt.text import count, memory_size


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """One source over the whole run."""

    name: str
    is_replay: bool
    available_tokens: int
    share_asked: float
    samples: int
    share_achieved: float
    tokens: int
    epochs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPlan:
    """Steps with the same blend, sequence length and batch size."""

    name: str
    """Empty for the steps before the first stage."""
    from_step: int
    steps: int
    sequence_length: int
    global_batch_size: int
    tokens: int
    training_flops: float
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything ``megacpt plan`` shows; written to RUN_DIR/plan.json when the run starts."""

    run_dir: str
    family: str
    parameters: int
    active_parameters: int
    """Parameters one token passes: fewer than all in a model with experts."""
    trained_parameters: int
    """All, or an adapter's and those of the tables trained beside it."""
    steps: int
    samples_per_step: int
    """Samples at the start, like everything here that stages may change, totals aside."""
    tokens_per_step: int
    tokens: int
    ranks: int
    layout: str
    microbatches: int
    sources: tuple[SourcePlan, ...]
    stages: tuple[SegmentPlan, ...]
    learning_rates: Mapping[int, float]
    """Step -> rate, where the schedule turns."""
    lr_multipliers: Mapping[str, float]
    """Group -> multiplier, for the groups whose rate differs."""
    advice: tuple[str, ...]
    """Settings that are often a mistake; none stops the run."""
    training_flops: float
    memory: RankMemory
    checkpoint_bytes: int
    snapshot_bytes: int
    """Host memory of a rank for what it saves beside training, from the first save on."""
    checkpoints_kept: int
    length: tuple[str, ...] = ()
    """What schedule.epochs, tokens and warmup_fraction come to."""
    hub_model: str | None = None
    """ORG/NAME@COMMIT of a model from the Hugging Face hub."""
    context: str | None = None
    """The positions that ``model.rope`` gives, and how."""
    adapter: str | None = None
    """What is trained in place of the model's weights."""
    begins: tuple[str, ...] = ()
    """What a warm start takes from the other run's checkpoint, and both rates."""
    curated: Mapping[str, tuple[TextOrigin, ...]] = field(default_factory=dict)
    """Where each source's text was curated, and how, as far as its shard says so; without the
    files that this began with."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"memory_total_bytes": self.memory.total}

    def render(self) -> str:
        """Text for a terminal of 80 columns."""
        return "\n".join(_lines(self))


def make_plan(
    config: RunConfig,
    *,
    architecture: Architecture,
    source_tokens: Mapping[str, int],
    segments: Sequence[Segment] | None = None,
) -> Plan:
    """Plan of a run in which megacpt.plan.check found nothing; ``segments`` if it has begun."""
    data, parallel, schedule = config.data, config.parallel, config.schedule
    segments = segments or resolve(data)
    stages = _segments(segments, architecture=architecture, steps=schedule.steps)
    sources = _sources(data, segments=segments, steps=schedule.steps, source_tokens=source_tokens)
    whole = checkpoint_bytes(
        architecture, dtype=config.precision.dtype, optimizer=config.optim.optimizer
    )
    return Plan(
        run_dir=config.run_dir,
        family=architecture.family,
        parameters=num_parameters(architecture),
        active_parameters=num_active_parameters(architecture),
        trained_parameters=num_trained_parameters(architecture),
        steps=schedule.steps,
        samples_per_step=segments[0].global_batch_size,
        tokens_per_step=segments[0].tokens_per_step,
        tokens=sum(stage.tokens for stage in stages),
        ranks=parallel.num_ranks,
        layout=_layout(parallel),
        microbatches=data.global_batch_size // (data.micro_batch_size * parallel.dp),
        sources=sources,
        stages=stages,
        learning_rates={
            step: learning_rate(step, optim=config.optim, schedule=schedule)
            for step in shown_steps(schedule)
        },
        lr_multipliers=group_multipliers(config.optim, adapter=config.adapter),
        advice=(
            *advice(config),
            *adapter.advice(architecture.adapter),
            *advice_for_gpus(config, model=architecture),
            *_unused(sources),
        ),
        training_flops=sum(stage.training_flops for stage in stages),
        memory=_memory(config, architecture=architecture),
        checkpoint_bytes=whole,
        snapshot_bytes=-(-whole // parallel.num_ranks) if config.checkpoint.asynchronous else 0,
        checkpoints_kept=checkpoints_kept(config),
        context=_context(config.model.rope, longest=architecture.max_positions),
        adapter=adapter_sentence(architecture),
    )


def _memory(config: RunConfig, *, architecture: Architecture) -> RankMemory:
    return rank_memory(
        architecture,
        data=replace(config.data, sequence_length=longest(config.data)),
        parallel=config.parallel,
        dtype=config.precision.dtype,
        optimizer=config.optim.optimizer,
        offload=config.optim.offload,
        weight_copy_bytes=weight_copy_bytes(config.precision),
        packing=config.adapter.base if config.adapter else None,
    )


def _context(rope: RopeConfig | None, *, longest: int) -> str | None:
    if rope is None:
        return None
    base = f", theta {rope.theta:g}" if rope.theta else ""
    return f"{longest:,} positions by model.rope ({rope.kind.name}, factor {rope.factor:g}{base})"


def _layout(parallel: ParallelConfig) -> str:
    sizes = {name: getattr(parallel, name) for name in ("tp", "cp", "pp", "vpp", "dp")}
    sizes |= {"ep": parallel.ep} if parallel.ep > 1 else {}
    return " ".join(f"{name}={size}" for name, size in sizes.items())


def shares(
    data: DataConfig, *, steps: int, segments: Sequence[Segment] | None = None
) -> dict[str, float]:
    """Fraction of a run's samples that each source is asked to give; they sum to one."""
    asked = samples_asked(segments or resolve(data), steps=steps)
    total = sum(asked.values())
    return {name: float(asked.get(name, 0) / total) for name in data.sources}


def _segments(
    segments: Sequence[Segment], *, architecture: Architecture, steps: int
) -> tuple[SegmentPlan, ...]:
    """Every segment; one that begins after the last step has no steps."""
    reached = {s.from_step: length for s, length in durations(segments, steps=steps)}
    return tuple(
        SegmentPlan(
            name=segment.name,
            from_step=segment.from_step,
            steps=(length := reached.get(segment.from_step, 0)),
            sequence_length=segment.sequence_length,
            global_batch_size=segment.global_batch_size,
            tokens=(tokens := length * segment.tokens_per_step),
            training_flops=tokens
            * training_flops_per_token(architecture, sequence_length=segment.sequence_length),
            shares={name: float(share) for name, share in segment.shares.items()},
        )
        for segment in segments
    )


def _sources(
    data: DataConfig,
    *,
    segments: Sequence[Segment],
    steps: int,
    source_tokens: Mapping[str, int],
) -> tuple[SourcePlan, ...]:
    """Each source's share; within one sample a segment of what is drawn."""
    samples, tokens = dict.fromkeys(data.sources, 0), dict.fromkeys(data.sources, 0)
    epochs = dict.fromkeys(data.sources, 0.0)
    epoch_samples = epoch_samples_of(data, tokens=source_tokens)
    for segment, length in durations(segments, steps=steps):
        counts = apportion(segment.shares, total=length * segment.global_batch_size)
        for name, number in counts.items():
            samples[name] += number
            tokens[name] += number * segment.sequence_length
            epochs[name] += float(number / (epoch_samples(name, segment.sequence_length) or 1))
    asked, total = shares(data, steps=steps, segments=segments), sum(samples.values())
    return tuple(
        SourcePlan(
            name=name,
            is_replay=data.replay is not None and name == data.replay.source,
            available_tokens=source_tokens[name],
            share_asked=asked[name],
            samples=samples[name],
            share_achieved=samples[name] / total,
            tokens=tokens[name],
            epochs=epochs[name],
        )
        for name in data.sources
    )


def _unused(sources: Sequence[SourcePlan]) -> Iterator[str]:
    """Sources that somebody has named, and that no step reads."""
    total = sum(source.samples for source in sources)
    for source in sources:
        if source.samples == 0:
            reason = (
                f"its share, {source.share_asked:.2g} of {total:,} samples, is less than one of "
                f"them in every stage; give it {1 / total:.2g} or more"
                if source.share_asked
                else "it waits for a stage that begins after the last step; let it begin earlier"
            )
            yield f"data.sources.{source.name} gives no sample: {reason}, or leave it out."


def _lines(plan: Plan) -> Iterator[str]:
    yield f"Run folder   {plan.run_dir}"
    active = f", {count(plan.active_parameters, digits=2)} active for a token"
    yield (
        f"Model        {plan.family}, {count(plan.parameters, digits=2)} parameters"
        + active * (plan.active_parameters < plan.parameters)
    )
    if plan.hub_model is not None:
        yield f"             {plan.hub_model}"
    if plan.adapter is not None:
        name, _, share = plan.adapter.partition(": ")
        yield f"Adapter      {name}"
        yield f"             {share}"
    if plan.context is not None:
        yield f"Context      {plan.context}"
    yield (
        f"Layout       {plan.ranks} rank{'s' * (plan.ranks > 1)}: {plan.layout}, "
        f"{plan.microbatches} microbatches a step"
    )
    start = " at the start" if len(plan.stages) > 1 else ""
    yield (
        f"Steps        {plan.steps:,} of {plan.samples_per_step:,} samples "
        f"= {count(plan.tokens_per_step, digits=2)} tokens each{start}"
    )
    for sentence in plan.length:
        yield f"Length       {sentence}"
    yield f"Tokens       {count(plan.tokens, digits=2)} in all, {plan.training_flops:.2e} FLOPs"
    if len(plan.stages) > 1:
        yield ""
        yield from _segment_lines(plan.stages)
    yield ""
    yield from _source_lines(plan.sources)
    yield from _curated_lines(plan.curated)
    yield ""
    yield from _rate_lines(plan)
    yield ""
    yield from _memory_lines(plan)
    for sentence in plan.begins:
        yield ""
        yield from _wrapped("Warm start", items=sentence.split(" "), gap=" ")
    for sentence in plan.advice:
        yield ""
        yield from _wrapped("Advice", items=sentence.split(" "), gap=" ")


def _rate_lines(plan: Plan) -> Iterator[str]:
    rates = [f"{step}: {rate:.2e}" for step, rate in plan.learning_rates.items()]
    yield from _wrapped("LR at step", items=rates)
    groups = [f"{name} x {multiplier:g}" for name, multiplier in plan.lr_multipliers.items()]
    if groups:
        yield from _wrapped("LR of groups", items=groups)


def _segment_lines(segments: tuple[SegmentPlan, ...]) -> Iterator[str]:
    yield f"{'Stage':<24}{'from step':>11}{'steps':>9}{'length':>10}{'batch':>11}{'tokens':>11}"
    for segment in segments:
        yield (
            f"{_shortened(_segment_name(segment), width=23):<24}{segment.from_step:>11,}"
            f"{segment.steps:>9,}{segment.sequence_length:>10,}{segment.global_batch_size:>11,}"
            f"{count(segment.tokens, digits=2):>11}"
        )
        yield from _wrapped(
            "", items=[f"{name} {share:.2%}" for name, share in segment.shares.items()]
        )


def _segment_name(segment: SegmentPlan) -> str:
    return segment.name or ("(start)" if segment.from_step == 0 else "(resumed)")


def _source_lines(sources: tuple[SourcePlan, ...]) -> Iterator[str]:
    yield f"{'Source':<24}{'available':>11}{'asked':>9}{'achieved':>10}{'tokens':>11}{'epochs':>9}"
    for source in sources:
        name = source.name + (" (replay)" if source.is_replay else "")
        yield (
            f"{_shortened(name, width=23):<24}{count(source.available_tokens, digits=2):>11}"
            f"{source.share_asked:>9.2%}{source.share_achieved:>10.2%}"
            f"{count(source.tokens, digits=2):>11}{source.epochs:>9.2f}"
        )


def _curated_lines(curated: Mapping[str, tuple[TextOrigin, ...]]) -> Iterator[str]:
    """Nothing where no source has a record."""
    for name, origins in curated.items() if any(curated.values()) else ():
        done = ", ".join(common(origins)) or ("no step" if origins else "no record of it")
        yield from _wrapped("Curated", items=f"{name}: {done}".split(" "), gap=" ")


def checkpoints_kept(config: RunConfig) -> int:
    """Checkpoints on disk at the end, for any reason; the best may be one of the others."""
    checkpoint, last = config.checkpoint, config.schedule.steps
    saved = sorted({*range(checkpoint.every_steps, last, checkpoint.every_steps), last})
    every = checkpoint.keep_every_steps
    kept = {*saved[-checkpoint.keep_last :], *(s for s in saved if every and s % every == 0)}
    return min(len(kept) + checkpoint.keep_best, len(saved))


def _memory_lines(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    yield f"Memory       {memory_size(memory.total)} on the fullest rank (estimate):"
    yield (
        f"             weights {memory_size(memory.weights)}, "
        f"gradients {memory_size(memory.gradients)}, optimizer {memory_size(memory.optimizer)},"
    )
    yield (
        f"             activations {memory_size(memory.activations)}, "
        f"logits {memory_size(memory.logits)}"
    )
    if memory.host_optimizer:
        yield f"             and in host memory optimizer {memory_size(memory.host_optimizer)}"
    if plan.snapshot_bytes:
        yield (
            f"             and in host memory {memory_size(plan.snapshot_bytes)}, "
            "a copy of its share of a checkpoint"
        )
    yield (
        f"Disk         {memory_size(plan.checkpoint_bytes)} a checkpoint, "
        f"{memory_size(plan.checkpoint_bytes * plan.checkpoints_kept)} for the "
        f"{plan.checkpoints_kept} kept"
    )


def _wrapped(title: str, *, items: list[str], width: int = 80, gap: str = "  ") -> Iterator[str]:
    """Items side by side under a title of 13 columns, as many a line as fit."""
    line = f"{title:<13}"
    for item in items:
        if len(line) + len(item) > width:
            yield line.rstrip()
            line = " " * 13
        line += f"{item}{gap}"
    yield line.rstrip()


def _shortened(text: str, *, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."
