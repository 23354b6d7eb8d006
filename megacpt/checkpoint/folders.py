# SPDX-License-Identifier: Apache-2.0
"""The folder of checkpoints of one run: which can be used, which is newest, what may go.

    checkpoints/
        step_00000050/                        complete: the manifest came last, then the rename
        .step_00000100.000003.partial/        being written by start 3, or left by it; never read
        .step_00000050.000003.9f3a1c.aside/   taken out of the way by start 3, to be deleted
        latest                                name of the newest one, for people; never believed

Plain files and renames only, so that any node can look without torch. No lock is needed: a rename
never replaces a folder that holds something, and whatever is deleted is first renamed to a name
that belongs to the start that deletes it. So an older start that wakes up between two of its
steps can neither overwrite nor delete what a newer one has published: see ``_take_aside``.
"""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.checkpoint import starts, verify
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.retention import Retention
from megacpt.checkpoint.starts import Lineage, Start
from megacpt.errors import CheckpointError, EnvironmentError_, Superseded
from megacpt.files import sync, write_text

logger = logging.getLogger(__name__)
LATEST = "latest"
_EXISTS = {errno.ENOTEMPTY, errno.EEXIST}
_TRIES = 8
"""Attempts at a rename whose target exists: before each, one more older start came in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A complete-looking checkpoint and whether it can be used."""

    folder: Path
    manifest: CheckpointManifest | None
    """None where it cannot be read."""
    problem: str | None = None
    """Why it is passed over; None: it can be used."""
    is_left: bool = False
    """Sound, but a later start went on from before it: not of the run's history."""

    @property
    def step(self) -> int:
        return int(self.folder.name.removeprefix("step_"))


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def partial_folder(root: Path, *, step: int, start: Start) -> Path:
    """Where ``start`` writes the checkpoint of ``step`` before it is complete."""
    return root / f".{folder_name(step)}.{start.number:06d}.partial"


def published(root: Path, *, full: bool = False) -> list[Candidate]:
    """Every folder that was published, newest first. ``full`` reads all bytes of each."""
    lineage = starts.lineage(root.parent)
    folders = (p for p in root.glob("step_*") if p.name.removeprefix("step_").isdigit())
    found = (_candidate(folder, lineage=lineage, full=full) for folder in folders)
    return sorted((c for c in found if c is not None), key=lambda candidate: -candidate.step)


def newest(root: Path, *, full: bool = False, loud: bool = False) -> Path | None:
    """The newest one that can be used; None where the run has written none.

    ``full`` reads all its bytes; ``loud``: the log says which are passed over and why.
    """
    damage = _damage if full else _no_damage
    chosen = first_usable(published(root), root=root, damage=damage, loud=loud)
    return chosen.folder if chosen is not None else None


def first_usable(
    found: Sequence[Candidate],
    *,
    root: Path,
    damage: Callable[[Candidate], str | None],
    loud: bool,
) -> Candidate | None:
    """The first that can be used and in which ``damage`` finds none.

    CheckpointError where there are some and all are damaged: going on from the beginning would
    throw the run away without a word.
    """
    damaged = ""
    for candidate in found:
        problem = candidate.problem or damage(candidate)
        if problem is None:
            return candidate
        if loud:
            logger.warning("passed over checkpoint %s: %s", candidate.folder, problem)
        if not candidate.is_left:
            damaged += f"\n  {candidate.folder.name}: {problem}"
    if damaged:
        raise CheckpointError(
            f"{root} holds no checkpoint that can be used:{damaged}\n"
            "Bring one back from a copy; or move them away, to begin at the base model."
        )
    return None


def _damage(candidate: Candidate) -> str | None:
    return "; ".join(verify.full(candidate.folder)) or None


def _no_damage(candidate: Candidate) -> None:
    """Trust that the files are what their sizes say."""


def usable(found: Sequence[Candidate]) -> list[CheckpointManifest]:
    return [c.manifest for c in found if c.problem is None and c.manifest is not None]


def newest_data(root: Path) -> dict[str, Any] | None:
    """The data record of the newest checkpoint; None where there is none."""
    folder = newest(root)
    return CheckpointManifest.read(folder).data if folder is not None else None


def publish(root: Path, *, partial: Path, manifest: CheckpointManifest, start: Start) -> Path:
    """Make a fully written folder a checkpoint: flush, manifest, rename, ``latest``.

    Superseded where a newer start has claimed the run; what that has published stays as it is.
    """
    start.require_held()
    final = root / folder_name(manifest.step)
    try:
        _seal(partial, manifest=manifest)
        _move_in(partial, final=final, start=start)
        sync(root)
        start.require_held()
        write_text(root / LATEST, text=final.name)
    except (OSError, EnvironmentError_) as error:
        # A newer start deletes what this one was writing.
        start.require_held()
        if not isinstance(error, OSError):
            raise
        raise EnvironmentError_(
            f"{error.filename or partial} cannot be written: {error.strerror}; free space or "
            "fix the file system. The checkpoints before are untouched."
        ) from error
    return final


def prune(
    root: Path,
    *,
    policy: Retention,
    start: Start,
    found: Sequence[Candidate] | None = None,
    damaged: bool = False,
) -> list[Path]:
    """Delete what the policy does not keep and what older starts left; return the folders deleted.

    The newest that can be used always stays. So do damaged ones, unless they are asked for: nobody
    can tell here whether the fault is theirs or the file system's. ``found``: candidates that were
    read before.
    """
    start.require_held()
    found = published(root) if found is None else found
    kept = set(policy.kept(usable(found)))
    doomed = [c for c in found if _may_go(c, kept=kept, start=start, damaged=damaged)]
    for candidate in doomed:
        delete(candidate.folder, start=start)
    remove_leftovers(root, start=start)
    return [candidate.folder for candidate in doomed]


def delete(folder: Path, *, start: Start) -> None:
    """Delete a published checkpoint, unless a newer start has published it."""
    start.require_held()
    _remove(_take_aside(folder, start=start))


def remove_leftovers(root: Path, *, start: Start) -> None:
    """Delete what older starts left half-written or half-deleted; ``start`` holds the fence.

    A checkpoint that is newer than the start which took it aside comes back.
    """
    for aside in root.glob(".step_*.aside"):
        taken_by = int(aside.name.split(".")[2])
        if _start_of(aside) > taken_by:
            _put_back(aside)
        elif taken_by <= start.number:
            _remove(aside)
    for partial in root.glob(".step_*.partial"):
        if int(partial.name.split(".")[2]) < start.number:
            # Its writer may be about to publish it: that must find all of it or nothing.
            _remove(_take_aside(partial, start=start))


def _candidate(folder: Path, *, lineage: Lineage, full: bool) -> Candidate | None:
    """None where it was deleted since it was seen."""
    try:
        manifest = _read_twice(folder)
    except CheckpointError as error:
        if not folder.exists():
            return None
        return Candidate(folder=folder, manifest=None, problem=verify.said_of(folder, error=error))
    later = lineage.left_by(start=manifest.start, step=manifest.step)
    if later is not None:
        problem = (
            f"written by start {manifest.start}, but start {later} has gone on from step "
            f"{lineage.from_steps[later]}"
        )
        return Candidate(folder=folder, manifest=manifest, problem=problem, is_left=True)
    problems = verify.full(folder) if full else verify.quick(folder)
    if folder.name != folder_name(manifest.step):
        problems.append(f"its manifest is of step {manifest.step}")
    return Candidate(folder=folder, manifest=manifest, problem="; ".join(problems) or None)


def _read_twice(folder: Path) -> CheckpointManifest:
    """Another start may replace a checkpoint just now: for a moment there is none of its name."""
    try:
        return CheckpointManifest.read(folder)
    except CheckpointError:
        return CheckpointManifest.read(folder)


def _may_go(candidate: Candidate, *, kept: set[int], start: Start, damaged: bool) -> bool:
    """Whether pruning deletes it; damaged ones only where another one is kept."""
    if candidate.is_left:
        return candidate.manifest is not None and candidate.manifest.start < start.number
    if candidate.problem is not None:
        return damaged and bool(kept)
    return candidate.step not in kept


def _seal(partial: Path, *, manifest: CheckpointManifest) -> None:
    for path in (partial, *partial.rglob("*")):
        sync(path)
    manifest.write(partial)
    if problems := verify.quick(partial):
        raise EnvironmentError_(
            f"{partial} was not written as its manifest says: {'; '.join(problems)}; "
            "fix the file system."
        )


def _move_in(partial: Path, *, final: Path, start: Start) -> None:
    for _ in range(_TRIES):
        start.require_held()
        try:
            partial.rename(final)
        except OSError as error:
            if error.errno not in _EXISTS:
                raise
        else:
            return
        there = _candidate(final, lineage=starts.lineage(start.run_dir), full=False)
        if there is not None and there.problem is None:
            # Of the same history, so of the same state; while it was replaced there would be none.
            _remove(partial)
            return
        # A damaged one, or one that an older start published late.
        _remove(_take_aside(final, start=start))
    raise EnvironmentError_(f"{final} comes back each time it is taken away; stop other starts.")


def _take_aside(folder: Path, *, start: Start) -> Path | None:
    """Rename a checkpoint to a name that only this start uses; None where it is gone.

    What was renamed is checked afterwards, because it may not be what was meant: an older start may
    sleep for hours between its decision and its rename. What a newer start wrote is put
    back; should this process die before it can, the next start does it (``remove_leftovers``).
    """
    name = folder.name.strip(".").split(".")[0]
    # A name used once: who has decided to delete it can delete nothing else.
    aside = folder.with_name(f".{name}.{start.number:06d}.{secrets.token_hex(3)}.aside")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return None
    written_by = _start_of(aside)
    if written_by > start.number:
        _put_back(aside)
        start.require_held()
        raise Superseded(f"{folder} was written by start {written_by}, this is {start.number}.")
    return aside


def _put_back(aside: Path) -> None:
    name = aside.name.split(".")[1]
    try:
        aside.rename(aside.with_name(name))
    except OSError as error:
        # Somebody else has done it.
        if error.errno not in {*_EXISTS, errno.ENOENT}:
            raise


def _remove(folder: Path | None) -> None:
    """Delete it; what cannot go now, as a file that a dying process holds open, goes next time."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _start_of(folder: Path) -> int:
    """0 where the manifest cannot be read: anyone may take that away."""
    try:
        return CheckpointManifest.read(folder).start
    except CheckpointError:
        return 0
