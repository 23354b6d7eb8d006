# SPDX-License-Identifier: Apache-2.0
"""What one model scored on each item of a suite: the file that benchmarks write and the gate reads.

Base and candidate are compared item by item, so an item keeps its id in both files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from megacpt.errors import CheckpointError
from megacpt.files import json_line, write_parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question. ``cluster``: what items have in common, such as their document or subject; the
    id where each stands alone. ``score``: the suite's metric, 0 or 1 where it is right or wrong."""

    id: str
    cluster: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """``suite``: as the run names it. ``metric``: as lm-eval names it, higher being better.
    ``model``: fingerprint of the weights that were scored."""

    suite: str
    metric: str
    model: str
    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        """An id stands for one item, and every score is a number."""
        twice = next((i for i, n in Counter(i.id for i in self.items).items() if n > 1), None)
        if twice is not None:
            raise CheckpointError(
                f"suite {self.suite} has two items with the id {twice}; give each its own."
            )
        bad = next((item for item in self.items if not math.isfinite(item.score)), None)
        if bad is not None:
            raise CheckpointError(
                f"suite {self.suite}: item {bad.id} scored {bad.score}, which is no number; the "
                "model's logits are not finite. Evaluate an earlier checkpoint."
            )

    @property
    def clusters(self) -> dict[str, str]:
        """Item -> its cluster: equal where two models were asked the same."""
        return {item.id: item.cluster for item in self.items}

    @property
    def mean(self) -> float:
        """Of all items alike, whatever their clusters."""
        return math.fsum(item.score for item in self.items) / len(self.items)


def write_scores(path: Path, *, scores: Scores) -> None:
    """JSONL: a header of suite, metric and model, then an item a line."""
    header = {"suite": scores.suite, "metric": scores.metric, "model": scores.model}
    write_parts(path, parts=_lines(header, items=scores.items))


def read_scores(path: Path) -> Scores:
    """Raises CheckpointError for a file that ``write_scores`` has not written."""
    try:
        header, *items = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        return Scores(**header, items=tuple(Item(**item) for item in items))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no file of scores ({error}); megacpt evaluate, or megacpt usefulness for "
            "questions, writes it again."
        ) from error


def _lines(header: object, *, items: Sequence[Item]) -> Iterable[bytes]:
    yield json_line(header)
    for item in items:
        yield json_line(asdict(item))
