# SPDX-License-Identifier: Apache-2.0
"""All there is to say of the checkpoints of a run, for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from megacpt.checkpoint import folders, starts, verify
from megacpt.checkpoint.folders import Candidate
from megacpt.checkpoint.manifest import MANIFEST
from megacpt.checkpoint.retention import Retention
from megacpt.checkpoint.starts import Start
from megacpt.errors import CheckpointError

Progress = Callable[[int, int], None]
"""Bytes read, bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A checkpoint that is being written, or that a start has left half-written."""

    step: int
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Newest first."""

    run_dir: Path
    found: tuple[Candidate, ...]
    written_at: dict[int, float]
    """Step -> seconds since 1970."""
    kept: dict[int, str]
    """Step -> why it stays when the run prunes."""
    loss_of: str | None
    """The held-out set whose losses are shown."""
    partials: tuple[Partial, ...]
    starts: tuple[Start, ...]
    """Oldest first."""
    verified: bool
    """Every byte was read, not only the sizes."""
    removed: tuple[Path, ...] = ()
    """What was deleted just now."""

    @property
    def newest(self) -> Candidate | None:
        return next((c for c in self.found if c.problem is None), None)

    @property
    def damaged(self) -> tuple[Candidate, ...]:
        return tuple(c for c in self.found if c.problem is not None and not c.is_left)


def list_checkpoints(
    run_dir: Path,
    *,
    policy: Retention,
    loss_of: str | None = None,
    full: bool = False,
    progress: Progress | None = None,
) -> Listing:
    """Look at all of them; ``full`` reads every byte. Writes nothing."""
    root = run_dir / "checkpoints"
    found = folders.published(root)
    if full:
        found = _read_all(found, progress=progress)
    return Listing(
        run_dir=run_dir,
        found=tuple(found),
        written_at={c.step: _written_at(c.folder) for c in found},
        kept=policy.kept(folders.usable(found)),
        loss_of=loss_of,
        partials=tuple(_partials(root)),
        starts=tuple(starts.read_starts(run_dir)),
        verified=full,
    )


def prune_listed(listing: Listing, *, policy: Retention) -> Listing:
    """Delete what the run would, and what is damaged; what is left.

    It acts in the name of the newest start, so that a run at work keeps its fence.
    """
    if not listing.starts:
        raise CheckpointError(
            f"{listing.run_dir} has no start of a run on record, so nothing in it can be told from "
            "what a run still needs; name the folder of a run."
        )
    root = listing.run_dir / "checkpoints"
    removed = folders.prune(
        root, policy=policy, start=listing.starts[-1], found=listing.found, damaged=True
    )
    return replace(
        listing,
        found=tuple(c for c in listing.found if c.folder not in removed),
        partials=tuple(_partials(root)),
        removed=tuple(removed),
    )


def _read_all(found: list[Candidate], *, progress: Progress | None) -> list[Candidate]:
    usable = folders.usable(found)
    total = sum(manifest.bytes for manifest in usable)
    read, looked_at = 0, []
    for candidate in found:
        problems: list[str] = []
        if candidate.problem is None and candidate.manifest is not None:
            for name, file in candidate.manifest.files.items():
                problems += verify.full(candidate.folder, names=[name])
                read += file.bytes
                if progress is not None:
                    progress(read, total)
        looked_at.append(replace(candidate, problem="; ".join(problems)) if problems else candidate)
    return looked_at


def _written_at(folder: Path) -> float:
    manifest = folder / MANIFEST
    return (manifest if manifest.exists() else folder).stat().st_mtime


def _partials(root: Path) -> list[Partial]:
    found = (p.name.split(".") for p in root.glob(".step_*.partial"))
    parts = [
        Partial(step=int(words[1].removeprefix("step_")), start=int(words[2])) for words in found
    ]
    return sorted(parts, key=lambda partial: (partial.start, partial.step))
