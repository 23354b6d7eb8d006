# SPDX-License-Identifier: Apache-2.0
"""What a run will do, before any process exists: tokens, epochs, learning rates, memory, disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from megacpt.config.sections import DataConfig, RunConfig
from megacpt.plan.architecture import Architecture
from megacpt.plan.memory import RankMemory, checkpoint_bytes, rank_memory
from megacpt.plan.schedule import learning_rate

GIB = 2**30


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
class Plan:
    """Everything ``megacpt plan`` shows; written to RUN_DIR/plan.json when the run starts."""

    run_dir: str
    family: str
    parameters: int
    steps: int
    samples_per_step: int
    tokens_per_step: int
    tokens: int
    ranks: int
    layout: str
    microbatches: int
    sources: tuple[SourcePlan, ...]
    learning_rates: Mapping[int, float]
    training_flops: float
    memory: RankMemory
    checkpoint_bytes: int
    checkpoints_kept: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"memory_total_bytes": self.memory.total}

    def render(self) -> str:
        """Text for a terminal of 80 columns."""
        return "\n".join(_lines(self))


def make_plan(
    config: RunConfig, *, architecture: Architecture, source_tokens: Mapping[str, int]
) -> Plan:
    """Assumes that megacpt.plan.rules found nothing."""
    data, parallel, schedule = config.data, config.parallel, config.schedule
    tokens_per_step = data.global_batch_size * data.sequence_length
    tokens = tokens_per_step * schedule.steps
    flops = architecture.training_flops_per_token(sequence_length=data.sequence_length)
    return Plan(
        run_dir=config.run_dir,
        family=architecture.family,
        parameters=architecture.num_parameters,
        steps=schedule.steps,
        samples_per_step=data.global_batch_size,
        tokens_per_step=tokens_per_step,
        tokens=tokens,
        ranks=parallel.tp * parallel.pp * parallel.dp,
        layout=f"tp={parallel.tp} pp={parallel.pp} vpp={parallel.vpp} dp={parallel.dp}",
        microbatches=data.global_batch_size // (data.micro_batch_size * parallel.dp),
        sources=_sources(data, steps=schedule.steps, source_tokens=source_tokens),
        learning_rates={
            step: learning_rate(step, optim=config.optim, schedule=schedule)
            for step in shown_steps(schedule.warmup_steps, steps=schedule.steps)
        },
        training_flops=flops * tokens,
        memory=rank_memory(
            architecture, data=data, parallel=parallel, dtype=config.precision.dtype
        ),
        checkpoint_bytes=checkpoint_bytes(architecture, dtype=config.precision.dtype),
        checkpoints_kept=config.checkpoint.keep_last,
    )


def shares(data: DataConfig) -> dict[str, float]:
    """Fraction of all samples each source is asked to give; they sum to one."""
    replay = data.replay
    own = {n: s.weight for n, s in data.sources.items() if replay is None or n != replay.source}
    rest = 1.0 - (replay.share if replay is not None else 0.0)
    total = sum(own.values())
    result = {name: rest * weight / total for name, weight in own.items()}
    return result | ({replay.source: replay.share} if replay is not None else {})


def shown_steps(warmup_steps: int, *, steps: int) -> list[int]:
    """First, end of warmup, quarters and last."""
    wanted = {1, warmup_steps, steps // 4, steps // 2, 3 * steps // 4, steps}
    return sorted(step for step in wanted if step >= 1)


def _sources(
    data: DataConfig, *, steps: int, source_tokens: Mapping[str, int]
) -> tuple[SourcePlan, ...]:
    asked = shares(data)
    total = steps * data.global_batch_size
    samples = _apportion(asked, total=total)
    return tuple(
        SourcePlan(
            name=name,
            is_replay=data.replay is not None and name == data.replay.source,
            available_tokens=source_tokens[name],
            share_asked=asked[name],
            samples=samples[name],
            share_achieved=samples[name] / total,
            tokens=samples[name] * data.sequence_length,
            epochs=samples[name] * data.sequence_length / max(source_tokens[name], 1),
        )
        for name in data.sources
    )


def _apportion(asked: Mapping[str, float], *, total: int) -> dict[str, int]:
    """Whole samples nearest to the shares, by largest remainder; they sum to ``total``."""
    counts = {name: int(share * total) for name, share in asked.items()}
    by_remainder = sorted(asked, key=lambda name: counts[name] - asked[name] * total)
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _lines(plan: Plan) -> Iterator[str]:
    yield f"Run folder   {plan.run_dir}"
    yield f"Model        {plan.family}, {_count(plan.parameters)} parameters"
    yield (
        f"Layout       {plan.ranks} rank{'s' * (plan.ranks > 1)}: {plan.layout}, "
        f"{plan.microbatches} microbatches a step"
    )
    yield (
        f"Steps        {plan.steps:,} of {plan.samples_per_step:,} samples "
        f"= {_count(plan.tokens_per_step)} tokens each"
    )
    yield f"Tokens       {_count(plan.tokens)} in all, {plan.training_flops:.2e} FLOPs"
    yield ""
    yield from _source_lines(plan.sources)
    yield ""
    rates = "  ".join(f"{step}: {rate:.2e}" for step, rate in plan.learning_rates.items())
    yield from _wrapped("LR at step", rates.split("  "))
    yield ""
    yield from _memory_lines(plan)


def _source_lines(sources: tuple[SourcePlan, ...]) -> Iterator[str]:
    yield f"{'Source':<24}{'available':>11}{'asked':>9}{'achieved':>10}{'tokens':>11}{'epochs':>9}"
    for source in sources:
        name = source.name + (" (replay)" if source.is_replay else "")
        yield (
            f"{_shortened(name, width=23):<24}{_count(source.available_tokens):>11}"
            f"{source.share_asked:>9.2%}{source.share_achieved:>10.2%}"
            f"{_count(source.tokens):>11}{source.epochs:>9.2f}"
        )


def _memory_lines(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    yield f"Memory       {_size(memory.total)} on the fullest rank (estimate):"
    yield (
        f"             weights {_size(memory.weights)}, gradients {_size(memory.gradients)}, "
        f"optimizer {_size(memory.optimizer)},"
    )
    yield f"             activations {_size(memory.activations)}, logits {_size(memory.logits)}"
    yield (
        f"Disk         {_size(plan.checkpoint_bytes)} a checkpoint, "
        f"{_size(plan.checkpoint_bytes * plan.checkpoints_kept)} for the "
        f"{plan.checkpoints_kept} kept"
    )


def _wrapped(title: str, items: list[str], *, width: int = 80) -> Iterator[str]:
    """Items side by side under a title of 13 columns, as many a line as fit."""
    line = f"{title:<13}"
    for item in items:
        if len(line) + len(item) > width:
            yield line.rstrip()
            line = " " * 13
        line += f"{item}  "
    yield line.rstrip()


def _shortened(text: str, *, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _count(number: int) -> str:
    for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number)


def _size(num_bytes: int) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.2f} {name}"
    return f"{num_bytes} B"
