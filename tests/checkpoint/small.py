# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints with real files, written as a run writes them."""

from __future__ import annotations

from pathlib import Path

from megacpt.checkpoint import folders, starts, verify
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.starts import Start

FILES = {"__0_0.distcp": 300, "__1_0.distcp": 100, "common.pt": 40}


def claim(root: Path, *, from_step: int | None = None, host: str = "node7") -> Start:
    """A start of the run of ``root``, as far as having loaded ``from_step``."""
    start = starts.claim(root.parent, host=host, pid=4711)
    if from_step is not None:
        starts.record_from(start, step=from_step)
    return start


def write_partial(root: Path, *, step: int, start: Start, text: str = "") -> Path:
    partial = folders.partial_folder(root, step=step, start=start)
    partial.mkdir(parents=True)
    for name, size in FILES.items():
        content = f"{name} of step {step} by start {start.number} {text}".encode()
        (partial / name).write_bytes(content.ljust(size, b"."))
    return partial


def manifest_of(
    partial: Path, *, step: int, start: Start, heldout: dict[str, float] | None = None
) -> CheckpointManifest:
    return CheckpointManifest(
        step=step,
        start=start.number,
        architecture={"hidden_size": 64},
        layout={"tp": 1, "pp": 1, "vpp": 1, "dp": 1},
        data={"step": step},
        tokens_per_source={"domain": 10 * step},
        elapsed_s=1.5 * step,
        base_heldout=None,
        heldout=heldout,
        faults={},
        files=verify.sums_of(partial),
    )


def write(root: Path, *, step: int, start: Start, heldout: dict[str, float] | None = None) -> Path:
    partial = write_partial(root, step=step, start=start)
    manifest = manifest_of(partial, step=step, start=start, heldout=heldout)
    return folders.publish(root, partial=partial, manifest=manifest, start=start)


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())
