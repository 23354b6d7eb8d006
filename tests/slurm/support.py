# SPDX-License-Identifier: Apache-2.0
"""How the tests talk to a Slurm that sandbox.sh started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SANDBOX = Path(__file__).with_name("sandbox.sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    folder: Path
    env: dict[str, str]
    """Variables with which sbatch and squeue reach it."""

    def run(self, *words: str | Path) -> str:
        done = subprocess.run(words, env=self.env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def sandbox(self, *words: str) -> None:
        verb, *rest = words
        subprocess.run([SANDBOX, verb, self.folder, *rest], check=True, timeout=60)

    def submit(self, *words: str | Path) -> str:
        """The number of the job."""
        return self.run("sbatch", "--parsable", *words)

    def jobs(self, job: str, *, show: str = "%A") -> list[str]:
        """A line, in squeue's format ``show``, for each task of a job that has not ended."""
        words = ["squeue", "-h", "-j", job, "-o", show]
        # squeue fails where the job is forgotten already.
        done = subprocess.run(words, env=self.env, capture_output=True, text=True)
        return done.stdout.splitlines()

    def batch_host(self, job: str) -> str:
        """The node that runs the script, and rank 0."""
        return self.jobs(job, show="%B")[0]

    def other_host(self, job: str) -> str:
        """A node of the job beside that one."""
        (nodes,) = self.jobs(job, show="%N")
        first = self.batch_host(job)
        return next(
            n for n in self.run("scontrol", "show", "hostnames", nodes).split() if n != first
        )

    @contextmanager
    def cut_off(self, node: str) -> Iterator[None]:
        """Its network cable is unplugged; its processes live on."""
        self.sandbox("cut", node)
        try:
            yield
        finally:
            self.sandbox("heal", node)

    def cancel(self, job: str) -> None:
        """Also where it has ended already."""
        subprocess.run(["scancel", "--quiet", job], env=self.env, check=False)

    def wait_for(self, job: str) -> None:
        # Each look costs as much as some steps of the job.
        wait_until(lambda: not self.jobs(job), what=f"end of job {job}", every_s=0.5)


def wait_until(
    condition: Callable[[], object],
    *,
    what: str,
    timeout_s: float = 180,
    log: Callable[[], str] = str,
    every_s: float = 0.05,
) -> None:
    """``log``: what to show where it was waited for in vain."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s in vain for: {what}\n{log()}")
        time.sleep(every_s)
