# SPDX-License-Identifier: Apache-2.0
"""What has changed from one checkpoint of a run to another, from their manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megacpt.checkpoint.folders import folder_name, published
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceRow:
    """One value of two checkpoints; None in one that does not have it."""

    title: str
    first: object
    second: object
    unit: str = ""
    """``bytes``, ``s``, or nothing."""

    @property
    def is_equal(self) -> bool:
        return self.first == self.second


def compare(run_dir: Path, *, first: int, second: int) -> list[DifferenceRow]:
    """Two steps: first what tells which they are, then only what differs."""
    a, b = (CheckpointManifest.read(folder_of_step(run_dir, step=step)) for step in (first, second))
    rows = [
        DifferenceRow(title="written by start", first=a.start, second=b.start),
        DifferenceRow(
            title="updates", first=a.faults.get("updates"), second=b.faults.get("updates")
        ),
        *_numbers("tokens of", first=a.tokens_per_source, second=b.tokens_per_source),
        DifferenceRow(title="training", first=a.elapsed_s, second=b.elapsed_s, unit="s"),
        *_numbers("held-out", first=a.heldout or {}, second=b.heldout or {}),
        DifferenceRow(title="size", first=a.bytes, second=b.bytes, unit="bytes"),
        DifferenceRow(title="files", first=len(a.files), second=len(b.files)),
    ]
    changed = (
        *_numbers("layout", first=a.layout, second=b.layout),
        *_numbers("model", first=a.architecture, second=b.architecture),
        DifferenceRow(title="faults so far", first=_events(a), second=_events(b)),
    )
    return [*rows, *(row for row in changed if not row.is_equal)]


def folder_of_step(run_dir: Path, *, step: int) -> Path:
    """The checkpoint of ``step``; CheckpointError where there is none."""
    root = run_dir / "checkpoints"
    folder = root / folder_name(step)
    if not folder.exists():
        steps = ", ".join(str(c.step) for c in reversed(published(root))) or "none"
        raise CheckpointError(f"{root} has no checkpoint of step {step}; there are: {steps}.")
    return folder


def _numbers(
    title: str, *, first: Mapping[str, object], second: Mapping[str, object]
) -> list[DifferenceRow]:
    names = dict.fromkeys((*first, *second))
    return [
        DifferenceRow(title=f"{title} {name}", first=first.get(name), second=second.get(name))
        for name in names
    ]


def _events(manifest: CheckpointManifest) -> int:
    return len(manifest.faults.get("events", []))
