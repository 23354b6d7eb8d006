# SPDX-License-Identifier: Apache-2.0
"""Which start of the run this is and the checkpoint it goes on from, the same on all ranks."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megacpt.checkpoint import folders, starts, verify
from megacpt.checkpoint.at_work import require_ended
from megacpt.checkpoint.folders import Candidate
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.checkpoint.starts import Start
from megacpt.device.collective import from_first_rank
from megacpt.device.environment import slurm_job
from megacpt.device.processes import mark_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A claimed start, and where it begins."""

    start: Start
    folder: Path | None
    """The newest checkpoint that can be used; None: the beginning of the run."""
    manifest: CheckpointManifest | None

    @property
    def data(self) -> dict[str, Any] | None:
        """What the steps done have drawn."""
        return self.manifest.data if self.manifest is not None else None


def claim_origin(run_dir: Path, *, take_over: bool) -> Origin:
    """Become the newest start, then choose a checkpoint, every byte of it read; collective.

    ``take_over``: also from one that is seen at work.
    """
    root = run_dir / "checkpoints"
    start = from_first_rank(lambda: _claim(run_dir, take_over=take_over))
    chosen = choose(root)
    folder, manifest = (chosen.folder, chosen.manifest) if chosen is not None else (None, None)
    return Origin(start=start, folder=folder, manifest=manifest)


def _claim(run_dir: Path, *, take_over: bool) -> Start:
    job = slurm_job()
    start = starts.claim(
        run_dir,
        host=socket.gethostname(),
        pid=os.getpid(),
        job=job.id,
        restart=job.restarts,
        process=mark_of(os.getpid()),
        require_ended=None if take_over else require_ended,
    )
    folders.remove_leftovers(run_dir / "checkpoints", start=start)
    return start


def choose(root: Path) -> Candidate | None:
    """The newest checkpoint that can be used, every byte of it read; collective."""
    found = from_first_rank(lambda: folders.published(root))
    loud = torch.distributed.get_rank() == 0
    return folders.first_usable(found, root=root, damage=_damage, loud=loud)


def _damage(candidate: Candidate) -> str | None:
    return damage(candidate.folder, manifest=candidate.manifest)


def damage(folder: Path, *, manifest: CheckpointManifest | None) -> str | None:
    """What the ranks find when each reads some of the files; a collective call."""
    assert manifest is not None
    ranks = torch.distributed.get_world_size()
    names = verify.files_to_read(manifest, rank=torch.distributed.get_rank(), ranks=ranks)
    found: list[list[str]] = [[] for _ in range(ranks)]
    torch.distributed.all_gather_object(found, verify.full(folder, names=names))
    return "; ".join(dict.fromkeys(problem for problems in found for problem in problems)) or None
