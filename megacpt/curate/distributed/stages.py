# SPDX-License-Identifier: Apache-2.0
"""What jobs of a curation do, one after another: a block of a datatrove pipeline each.

A step reads the corpus piece by piece, once or more often, and between that takes all pieces
together. Each such time is a stage: an array of jobs that share the pieces, or one job. They only
say when to begin. What is made lies in OUTPUT.work, whoever makes it, so a stage too many finds
nothing to do, and what one has left undone the last makes.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megacpt.corpus.workers.share import NO_PIECES, Share
from megacpt.curate.config import CurateConfig, sections
from megacpt.curate.deduplicate.settings import DeduplicateConfig
from megacpt.curate.pipeline import Watcher, curate
from megacpt.curate.work import Unfinished


class StagePart(enum.Enum):
    pieces = "pieces"
    once = "once"
    """What takes all pieces together."""
    output = "output"


def _by_itself(_settings: object) -> tuple[StagePart, ...]:
    return (StagePart.pieces,)


def _deduplicate(settings: DeduplicateConfig) -> tuple[StagePart, ...]:
    lines = (StagePart.pieces, StagePart.once) if settings.lines else ()
    return (StagePart.pieces, StagePart.once, *lines, StagePart.pieces)


STAGES: Mapping[str, Callable[[Any], tuple[StagePart, ...]]] = {
    "deduplicate": _deduplicate,
    "balance": lambda _: (StagePart.pieces, StagePart.pieces),
}
"""Of steps that are not done with one of pieces."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """Called by datatrove for each task of an executor."""

    name: str
    part: StagePart
    config: CurateConfig
    stats: Any
    """datatrove's, of this block."""

    # datatrove calls with three values in this order.
    def __call__(self, _data: object, rank: int, world_size: int) -> None:
        counts = _Counts()
        watcher = Watcher(begins=lambda name, num_bytes: counts.add, notice=_log)
        share = Share(rank, world_size) if self.part is StagePart.pieces else NO_PIECES
        left = make_share(self.config, share=share, watcher=watcher)
        _log(str(left or "all pieces of all steps are there"))
        if self.part is StagePart.output:
            # Of pieces, what a task has left; else none.
            curate(self.config, watcher=watcher)
        self.stats["documents"].update(counts.documents)
        self.stats["bytes"].update(counts.bytes, "task")


def stages(config: CurateConfig, *, stats: Callable[[str], Any]) -> Iterator[Stage]:
    names = [
        (f"{number}-{section}", part)
        for number, (section, settings) in enumerate(sections(config).items(), start=1)
        for part in STAGES.get(section, _by_itself)(settings)
    ]
    for place, (name, part) in enumerate([*names, ("all", StagePart.output)], start=1):
        title = f"{place:02}-{name}-{part.value}"
        yield Stage(name=title, part=part, config=config, stats=stats(title))


def make_share(config: CurateConfig, *, share: Share, watcher: Watcher) -> Unfinished | None:
    """One task's pieces, of each step as far as the others have come; what they have left."""
    try:
        curate(config, share=share, watcher=watcher)
    except Unfinished as left:
        return left
    return None


class _Counts:
    """Told of all that is read, by any thread."""

    def __init__(self) -> None:
        self.documents = self.bytes = 0
        self._lock = threading.Lock()

    def add(self, num_bytes: int, *, documents: int, tokens: int = 0) -> None:
        with self._lock:
            self.documents += documents
            self.bytes += num_bytes


def _log(text: str) -> None:
    """Into the log that datatrove keeps of the task."""
    from loguru import logger

    logger.info(text)
