# SPDX-License-Identifier: Apache-2.0
"""The folder of checkpoints of one run: which are complete, which is newest, what may go.

    checkpoints/
        step_00000050/          complete: it holds manifest.json, written last, then renamed
        .step_00000100.partial/ being written, or left by a process that died; never read
        latest                  text file with the name of the newest complete one

Plain files and renames only, so that any node can look without torch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megacpt.config.atomic import write_text
from megacpt.errors import CheckpointError

MANIFEST = "manifest.json"
LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest:
    """What a checkpoint holds, so that a mismatch is found before any tensor is read."""

    step: int
    architecture: dict[str, object]
    layout: dict[str, int]
    """tp, pp, vpp, dp of the run that wrote it."""
    data: dict[str, Any]
    """What was drawn of each source, stage by stage (megacpt.data.record)."""
    tokens_per_source: dict[str, int]
    """Valid target tokens trained on so far."""
    elapsed_s: float
    """Seconds of training so far, over all restarts."""
    base_heldout: dict[str, dict[str, float]] | None
    """Held-out losses of the untouched base model, measured before the first step."""
    faults: dict[str, Any]
    """Updates applied, recent losses and gradient norms, events (megacpt.train.faults)."""
    files: dict[str, int]
    """File name -> size in bytes."""


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def partial_folder(root: Path, *, step: int) -> Path:
    """Where the checkpoint of ``step`` is written before it is complete."""
    return root / f".{folder_name(step)}.partial"


def publish(root: Path, *, partial: Path, manifest: CheckpointManifest) -> Path:
    """Make a fully written folder the newest checkpoint: fsync, manifest, rename, ``latest``."""
    for path in partial.rglob("*"):
        _fsync(path)
    write_text(partial / MANIFEST, json.dumps(asdict(manifest), indent=2))
    _fsync(partial)
    final = root / folder_name(manifest.step)
    replaced = root / f".{final.name}.replaced"
    if final.exists():
        # A run that died between the rename and ``latest`` comes here again with the same step.
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    write_text(root / LATEST, final.name)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def newest(root: Path) -> Path | None:
    """The newest complete checkpoint, or ``None``; ``latest`` is verified, not believed."""
    pointer = root / LATEST
    if pointer.exists():
        named = root / pointer.read_text().strip()
        if (named / MANIFEST).exists():
            return named
    complete = sorted(p.parent for p in root.glob(f"step_*/{MANIFEST}"))
    return complete[-1] if complete else None


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest, after every file was found with the size it was written with."""
    path = folder / MANIFEST
    try:
        manifest = CheckpointManifest(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint manifest ({error}); "
            f"remove {folder} to go on from the checkpoint before it."
        ) from error
    for name, size_bytes in manifest.files.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else None
        if found != size_bytes:
            raise CheckpointError(
                f"{folder / name} has {found} bytes but was written with {size_bytes}; "
                f"remove {folder} to go on from the checkpoint before it."
            )
    return manifest


def newest_data(root: Path) -> dict[str, Any] | None:
    """The data record of the newest checkpoint; None where there is none."""
    folder = newest(root)
    return read_manifest(folder).data if folder is not None else None


def require_architecture(
    manifest: CheckpointManifest, *, architecture: Mapping[str, object], folder: Path
) -> None:
    """The checkpoint must be of the base model that the run names, whatever lies there now."""
    for name, value in manifest.architecture.items():
        if architecture.get(name) != value:
            raise CheckpointError(
                f"{folder} is of another model: its {name} is {value}, the base model's is "
                f"{architecture.get(name)}; use the model it was written with, or a new run_dir."
            )


def prune(root: Path, *, keep_last: int) -> list[Path]:
    """Delete all but the newest ``keep_last`` complete checkpoints, and what dead writers left."""
    complete = sorted(p.parent for p in root.glob(f"step_*/{MANIFEST}"))
    doomed = complete[:-keep_last] if keep_last > 0 else []
    for folder in doomed:
        shutil.rmtree(folder)
    return doomed


def remove_partials(root: Path) -> None:
    """Delete folders that a dead process left half-written."""
    for pattern in (".step_*.partial", ".step_*.replaced"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
