# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint keeps of the data: what was drawn so far, and from which contents.

A run that goes on from it draws what it would have drawn undisturbed, at once however many steps
were done; settings of the steps to come may be new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from megacpt.errors import DataError
from megacpt.plan.segments import Segment

ORDER_VERSION = 2
"""A run must not go on under another arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSettings:
    """What holds for a whole run."""

    seed: int
    order: str
    packing: str
    chunk_length: int
    version: int = ORDER_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSegment:
    """A segment that has begun, and the samples of each of its sources drawn in it."""

    segment: Segment
    drawn: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """The data at a step; ``to_json`` and ``from_json`` are inverse."""

    step: int
    settings: OrderSettings
    contents: Mapping[str, str]
    """Fingerprint of each source that was drawn from."""
    segments: tuple[DrawnSegment, ...]
    curations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Fingerprints of the curations that a source's text is of, where its shard names some."""

    @property
    def past(self) -> tuple[Segment, ...]:
        return tuple(drawn.segment for drawn in self.segments)

    @property
    def known(self) -> list[tuple[int, DrawnSegment]]:
        """Each segment with the step before which it drew that much."""
        if not self.segments:
            return []
        ends = [drawn.segment.from_step for drawn in self.segments[1:]] + [self.step]
        pairs = zip(ends, self.segments, strict=True)
        return [(end, drawn) for end, drawn in pairs if drawn.segment.from_step < end]

    def at_step(self, step: int) -> DataRecord:
        """The same samples drawn, counted so that ``step`` of a new run comes next."""
        moved = step - self.step
        segments = tuple(
            replace(
                drawn, segment=replace(drawn.segment, from_step=drawn.segment.from_step + moved)
            )
            for drawn in self.segments
        )
        return replace(self, step=step, segments=segments)

    def to_json(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "step": self.step,
            "seed": settings.seed,
            "order": settings.order,
            "order_version": settings.version,
            "packing": settings.packing,
            "chunk_length": settings.chunk_length,
            "contents": dict(self.contents),
            "curations": {name: list(found) for name, found in self.curations.items()},
            "segments": [_segment_to_json(drawn) for drawn in self.segments],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DataRecord:
        try:
            return cls(
                step=int(content["step"]),
                settings=OrderSettings(
                    seed=int(content["seed"]),
                    order=str(content["order"]),
                    packing=str(content["packing"]),
                    chunk_length=int(content["chunk_length"]),
                    version=int(content["order_version"]),
                ),
                contents={str(name): str(value) for name, value in content["contents"].items()},
                segments=tuple(_segment_from_json(item) for item in content["segments"]),
                curations={
                    str(name): tuple(map(str, found))
                    for name, found in content.get("curations", {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise DataError(
                f"the checkpoint's record of the data cannot be read ({type(error).__name__}: "
                f"{error}); restore the checkpoint, or use an older one."
            ) from error


def _segment_to_json(drawn: DrawnSegment) -> dict[str, Any]:
    """Sources as a list: their order matters, and writers of JSON may sort keys."""
    segment = drawn.segment
    return {
        "stage": segment.name,
        "from_step": segment.from_step,
        "sequence_length": segment.sequence_length,
        "global_batch_size": segment.global_batch_size,
        "sources": [
            {"name": name, "share": str(share), "samples": samples}
            for (name, share), samples in zip(segment.shares.items(), drawn.drawn, strict=True)
        ],
    }


def _segment_from_json(content: Mapping[str, Any]) -> DrawnSegment:
    return DrawnSegment(
        segment=Segment(
            name=str(content["stage"]),
            from_step=int(content["from_step"]),
            shares={str(s["name"]): Fraction(s["share"]) for s in content["sources"]},
            sequence_length=int(content["sequence_length"]),
            global_batch_size=int(content["global_batch_size"]),
        ),
        drawn=tuple(int(s["samples"]) for s in content["sources"]),
    )


def require_same_settings(record: DataRecord, *, settings: OrderSettings) -> None:
    """Raise DataError where the run began with other settings than it would go on with."""
    for what, was, now in (
        ("the version of the sample order", record.settings.version, settings.version),
        ("seed", record.settings.seed, settings.seed),
        ("data.order", record.settings.order, settings.order),
        ("data.packing", record.settings.packing, settings.packing),
        ("data.chunk_length", record.settings.chunk_length, settings.chunk_length),
    ):
        if was != now:
            raise DataError(
                f"{what} is {now}, but the run began with {was}; restore it, or use a new run_dir."
            )


def require_same_contents(record: DataRecord, *, contents: Mapping[str, str]) -> None:
    """Raise DataError where a source that was drawn from is another one now."""
    for name, was in record.contents.items():
        now = contents.get(name)
        if now is None:
            raise DataError(
                f"data.sources.{name} is gone, but {record.step} steps drew from it; restore it (a "
                "stage that does not name it ends its use), or use a new run_dir."
            )
        if now != was:
            raise DataError(
                f"data.sources.{name} holds other tokens than those the run began with "
                f"(fingerprint {was[:12]}, now {now[:12]}); restore the token shard it was trained "
                "on, give new text a name of its own, or use a new run_dir."
            )
