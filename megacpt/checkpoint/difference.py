# SPDX-License-Identifier: Apache-2.0
"""What lies between two checkpoints of a run, from their manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megacpt.checkpoint.folders import candidates, folder_name
from megacpt.checkpoint.manifest import CheckpointManifest, read_manifest
from megacpt.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that both have, or one of them; numbers can be subtracted."""

    title: str
    first: object
    second: object
    unit: str = ""
    """``bytes``, ``s``, or nothing."""

    @property
    def is_equal(self) -> bool:
        return self.first == self.second


def compare(run_dir: Path, *, first: int, second: int) -> list[Row]:
    """Of two steps; what says who they are comes first, then only what differs."""
    a, b = (read_manifest(folder_of(run_dir, step=step)) for step in (first, second))
    rows = [
        Row(title="written by start", first=a.start, second=b.start),
        Row(title="updates", first=a.faults.get("updates"), second=b.faults.get("updates")),
        *_numbers("tokens of", first=a.tokens_per_source, second=b.tokens_per_source),
        Row(title="training", first=a.elapsed_s, second=b.elapsed_s, unit="s"),
        *_numbers("held-out", first=a.heldout or {}, second=b.heldout or {}),
        Row(title="size", first=_bytes(a), second=_bytes(b), unit="bytes"),
        Row(title="files", first=len(a.files), second=len(b.files)),
    ]
    changed = (
        *_numbers("layout", first=a.layout, second=b.layout),
        *_numbers("model", first=a.architecture, second=b.architecture),
        Row(title="faults so far", first=_events(a), second=_events(b)),
    )
    return [*rows, *(row for row in changed if not row.is_equal)]


def folder_of(run_dir: Path, *, step: int) -> Path:
    """Of a checkpoint that is there, else ``CheckpointError``."""
    root = run_dir / "checkpoints"
    folder = root / folder_name(step)
    if not folder.exists():
        steps = ", ".join(str(c.step) for c in reversed(candidates(root))) or "none"
        raise CheckpointError(f"{root} has no checkpoint of step {step}; there are: {steps}.")
    return folder


def _numbers(title: str, *, first: Mapping[str, object], second: Mapping[str, object]) -> list[Row]:
    names = dict.fromkeys((*first, *second))
    return [
        Row(title=f"{title} {name}", first=first.get(name), second=second.get(name))
        for name in names
    ]


def _bytes(manifest: CheckpointManifest) -> int:
    return sum(file.bytes for file in manifest.files.values())


def _events(manifest: CheckpointManifest) -> int:
    return len(manifest.faults.get("events", []))
