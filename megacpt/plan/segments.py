# SPDX-License-Identifier: Apache-2.0
"""What each step of a run draws: the blend, the sequence length and the batch size, by segments.

``data.stages`` says at which step or token count something changes; ``resolve`` turns it into
segments of constant settings. A run that goes on brings the segments of the steps it has done
(``past``): those are kept as they were, so that new settings begin with the next step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from megacpt.config.sections import DataConfig, SampleOrder, StageConfig
from megacpt.errors import ConfigError, Violation
from megacpt.plan.rules.data import blend_violations, longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Holds from ``from_step`` (steps done before it) until the next segment begins."""

    name: str
    """Name of the stage in data.stages; empty before the first one."""
    from_step: int
    shares: Mapping[str, Fraction]
    """Source -> its part of every global batch, in the order of data.sources."""
    sequence_length: int
    global_batch_size: int

    @property
    def tokens_per_step(self) -> int:
        return self.sequence_length * self.global_batch_size

    def same_samples(self, other: Segment) -> bool:
        """Whether both draw alike, but for how many samples make a step."""
        mine, others = ((dict(s.shares), tuple(s.shares), s.sequence_length) for s in (self, other))
        return mine == others


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What a stage inherits and changes."""

    weights: Mapping[str, float]
    replay_share: float | None
    sequence_length: int
    global_batch_size: int

    def changed(self, stage: StageConfig) -> _Settings:
        return _Settings(
            weights={n: s.weight for n, s in stage.sources.items()} or self.weights,
            replay_share=self.replay_share if stage.replay_share is None else stage.replay_share,
            sequence_length=stage.sequence_length or self.sequence_length,
            global_batch_size=stage.global_batch_size or self.global_batch_size,
        )

    def segment(self, data: DataConfig, *, name: str, from_step: int) -> Segment:
        return Segment(
            name=name,
            from_step=from_step,
            shares=self._shares(data),
            sequence_length=self.sequence_length,
            global_batch_size=self.global_batch_size,
        )

    def _shares(self, data: DataConfig) -> dict[str, Fraction]:
        """The replay share first, the rest split by weight; they add up to 1 exactly."""
        replayed = exact(self.replay_share) if self.replay_share is not None else Fraction(0)
        total = sum(exact(weight) for weight in self.weights.values())
        shares = {n: (1 - replayed) * exact(w) / total for n, w in self.weights.items()}
        if data.replay is not None:
            shares[data.replay.source] = replayed
        return {name: shares[name] for name in data.sources if name in shares}


def exact(number: float) -> Fraction:
    """0.1 means one tenth, not the nearest binary number."""
    return Fraction(repr(float(number)))


def resolve(
    data: DataConfig, *, past: Sequence[Segment] = (), step: int = 0
) -> tuple[Segment, ...]:
    """The segments of a run of which ``step`` steps were done as ``past`` says.

    Raises ConfigError with all that is wrong, and where ``data`` would have drawn other samples
    than ``past`` in those steps; a different number of samples a step is no matter. A run that goes
    on with another's samples has a past before its step 0, one that goes on with another's schedule
    alone has none before a later step; neither of those steps is compared.
    """
    if problems := blend_violations(data):
        raise ConfigError(problems)
    settings = _start(data)
    found = [settings.segment(data, name="", from_step=0)]
    waiting = dict(data.stages)
    while waiting:
        lived = _spliced(past, found=found, step=step)
        begins = {name: _begin(stage, segments=own(lived)) for name, stage in waiting.items()}
        name = min(begins, key=begins.__getitem__)
        if begins[name] <= found[-1].from_step:
            raise ConfigError([_same_begin(name, stage=data.stages[name], before=found[-1])])
        settings = settings.changed(waiting.pop(name))
        found.append(settings.segment(data, name=name, from_step=begins[name]))
    if changed := _edited(past, found=found, step=step):
        raise ConfigError([changed])
    return _spliced(past, found=found, step=step)


def _start(data: DataConfig) -> _Settings:
    replay = data.replay
    return _Settings(
        weights={
            name: source.weight
            for name, source in data.sources.items()
            if source.weight > 0 and (replay is None or name != replay.source)
        },
        replay_share=replay.share if replay is not None else None,
        sequence_length=data.sequence_length,
        global_batch_size=data.global_batch_size,
    )


def own(segments: Sequence[Segment]) -> list[Segment]:
    """The segments without what another run drew before step 0."""
    ends = [segment.from_step for segment in segments[1:]] + [None]
    return [
        replace(segment, from_step=max(segment.from_step, 0))
        for segment, end in zip(segments, ends, strict=True)
        if end is None or end > 0
    ]


def _begin(stage: StageConfig, *, segments: Sequence[Segment]) -> int:
    if stage.from_step is not None:
        return stage.from_step
    return step_at_tokens(segments, tokens=int(stage.from_tokens or 0))


def _same_begin(name: str, *, stage: StageConfig, before: Segment) -> Violation:
    key = "from_step" if stage.from_step is not None else "from_tokens"
    owner = f"stage {before.name} does" if before.name else "the run itself does"
    return Violation(
        path=f"data.stages.{name}.{key}",
        value=getattr(stage, key),
        rule=f"begins the stage at step {before.from_step}, where {owner}",
        remedy="give each stage a step of its own, or make them one stage",
    )


def _spliced(
    past: Sequence[Segment], *, found: Sequence[Segment], step: int
) -> tuple[Segment, ...]:
    """``past`` before ``step``, ``found`` from there on; a border that changes nothing is none."""
    kept = [segment for segment in past if segment.from_step < step]
    current = at(found, step=step)
    ahead = [segment for segment in found if segment.from_step > step]
    goes_on = (
        bool(kept)
        and kept[-1].same_samples(current)
        and kept[-1].global_batch_size == current.global_batch_size
        and (current.from_step < step or current is found[0])
    )
    if not goes_on:
        kept.append(replace(current, from_step=step))
    return (*kept, *ahead)


def _edited(past: Sequence[Segment], *, found: Sequence[Segment], step: int) -> Violation | None:
    """The first stage that would have drawn other samples than were drawn."""
    first = max(past[0].from_step, found[0].from_step) if past else step
    borders = sorted({s.from_step for s in (*past, *found) if first <= s.from_step < step})
    for border in borders:
        was, would_be = at(past, step=border), at(found, step=border)
        if not was.same_samples(would_be):
            name = would_be.name or was.name
            return Violation(
                path=f"data.stages.{name}" if name else "data",
                value=f"from step {border}",
                rule=f"differs from what was trained: {_described(was)}, now "
                f"{_described(would_be)}, but {step} steps are done and past stages may not be "
                "edited",
                remedy=f"restore it and put the change into a stage of its own from step {step} on",
            )
    return None


def _described(segment: Segment) -> str:
    shares = ", ".join(f"{name} {float(share):.4g}" for name, share in segment.shares.items())
    return f"{shares} in samples of {segment.sequence_length} tokens"


def at(segments: Sequence[Segment], *, step: int) -> Segment:
    """The segment of the step after ``step`` steps."""
    for segment in reversed(segments):
        if segment.from_step <= step:
            return segment
    raise IndexError(f"step {step} is before the first")


def durations(segments: Sequence[Segment], *, steps: int) -> Iterator[tuple[Segment, int]]:
    """Each segment that the first ``steps`` steps reach, with the number of its steps."""
    ends = [segment.from_step for segment in segments[1:]] + [steps]
    for segment, end in zip(segments, ends, strict=True):
        if segment.from_step < steps:
            yield segment, min(end, steps) - segment.from_step


def step_at_tokens(segments: Sequence[Segment], *, tokens: int) -> int:
    """The fewest steps whose samples have at least ``tokens`` tokens; the last segment lasts."""
    return step_at(segments, amount=Fraction(tokens), a_step=lambda s: Fraction(s.tokens_per_step))


def step_at(
    segments: Sequence[Segment], *, amount: Fraction, a_step: Callable[[Segment], Fraction]
) -> int:
    """The fewest steps that make ``amount``, of which each segment makes some a step."""
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        steps = math.ceil(amount / a_step(segment))
        length = following.from_step - segment.from_step if following else steps
        if steps <= length:
            return segment.from_step + max(steps, 0)
        amount -= length * a_step(segment)
    raise AssertionError("the last segment has no end")


def chunk_length(data: DataConfig) -> int:
    """Tokens shuffled as one piece."""
    return data.chunk_length or longest(data)


def samples_per_epoch(num_tokens: int, *, sequence_length: int, chunk_length: int) -> int:
    """Samples that hold each target of a stream once, where whole chunks come before the rest."""
    chunks, rest = divmod(max(num_tokens - 1, 0), chunk_length)
    return chunks * (chunk_length // sequence_length) + -(-rest // sequence_length)


EpochSamples = Callable[[str, int], Fraction | int]
"""(source, sequence length) -> samples an epoch."""


def epoch_samples_of(data: DataConfig, *, tokens: Mapping[str, int]) -> EpochSamples:
    """Of sources with so many tokens. In Megatron's order a sample goes on into the next epoch, or
    over several; it is no whole number there."""
    if data.order is SampleOrder.megatron:
        return lambda name, length: Fraction(tokens[name], length)
    chunk = chunk_length(data)
    return lambda name, length: samples_per_epoch(
        tokens[name], sequence_length=length, chunk_length=chunk
    )


def samples_asked(segments: Sequence[Segment], *, steps: int) -> dict[str, Fraction]:
    """Share times samples of each source; what is drawn differs by less than 1 a segment."""
    asked: dict[str, Fraction] = {}
    for segment, length in durations(segments, steps=steps):
        for name, share in segment.shares.items():
            asked[name] = asked.get(name, Fraction(0)) + share * segment.global_batch_size * length
    return asked


def epochs_at_most(
    segments: Sequence[Segment], *, name: str, steps: int, epoch_samples: EpochSamples
) -> Fraction:
    """How often ``steps`` steps go through a source, each segment's samples rounded up."""
    epochs = Fraction(0)
    for segment, length in durations(segments, steps=steps):
        share = segment.shares.get(name, Fraction(0))
        samples = math.ceil(share * segment.global_batch_size * length)
        epochs += Fraction(samples) / (epoch_samples(name, segment.sequence_length) or 1)
    return epochs


def epoch_cap_violations(
    data: DataConfig, *, segments: Sequence[Segment], steps: int, epoch_samples: EpochSamples
) -> list[Violation]:
    """Sources that the run would go through more often than their ``max_epochs``."""
    found = []
    for name, source in data.sources.items():
        if source.max_epochs is None or source.max_epochs <= 0:
            continue
        cap = exact(source.max_epochs)

        def epochs(n: int, *, name: str = name) -> Fraction:
            return epochs_at_most(segments, name=name, steps=n, epoch_samples=epoch_samples)

        if epochs(steps) > cap:
            found.append(
                Violation(
                    path=f"data.sources.{name}.max_epochs",
                    value=source.max_epochs,
                    rule=f"is exceeded: {steps} steps go through {name} "
                    f"{float(epochs(steps)):.3f} times",
                    remedy=_fewer_steps(epochs, cap=cap, steps=steps)
                    + f", a smaller share of {name}, or more text",
                )
            )
    return found


def _fewer_steps(epochs: Callable[[int], Fraction], *, cap: Fraction, steps: int) -> str:
    fits, exceeds = 0, steps
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        fits, exceeds = (middle, exceeds) if epochs(middle) <= cap else (fits, middle)
    return f"use schedule.steps={fits} or fewer" if fits else "not even one step fits: raise it"


def apportion(shares: Mapping[str, Fraction], *, total: int) -> dict[str, int]:
    """Whole samples nearest to the shares, by largest remainder; they sum to ``total``."""
    counts = {name: math.floor(share * total) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name] * total)
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
