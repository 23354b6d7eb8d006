# SPDX-License-Identifier: Apache-2.0
"""The settings of a curation on a Slurm cluster."""

from __future__ import annotations

from dataclasses import dataclass

from megacpt.config.limits import COUNT, limited


@dataclass(kw_only=True, slots=True)
class JobsConfig:
    partition: str
    tasks: int = limited(8, limits=COUNT)
    """The pieces are dealt to so many jobs of an array."""
    at_once: int | None = limited(None, limits=COUNT)
    """Of these, so many at a time; null: as many as Slurm starts."""
    time: str = "12:00:00"
    """Limit of one job."""
    cpus_per_task: int = limited(16, limits=COUNT)
    mem_per_cpu_gb: int = limited(2, limits=COUNT)
    qos: str | None = None
    extra: str | None = None
    """More options of sbatch, each as one word: ``--account=law --constraint=milan``."""
    setup: str | None = None
    """Shell lines of your own, run by each job before its Python starts."""
