# SPDX-License-Identifier: Apache-2.0
"""Tiny runs that the tests launch on the sandbox, watch and disturb."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.slurm.support import Cluster, wait_until

HOOKED_RANK = Path(__file__).with_name("hooked_rank.py")
STEPS = 64
EVERY_STEPS = 4
SETTINGS = (
    *("experiment=tiny", "cluster=slurm", "cluster.device=cpu", "monitor.wandb=disabled"),
    *("cluster.slurm.cpus_per_task=1", "evaluate.every_steps=1000", "evaluate.prompts=null"),
    *(f"schedule.steps={STEPS}", f"checkpoint.every_steps={EVERY_STEPS}"),
    "checkpoint.keep_last=20",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    cluster: Cluster
    run_dir: Path
    job: str

    def hook(self, name: str, text: str = "") -> None:
        aside = self.run_dir / "hooks" / f".{name}"
        aside.write_text(text)
        aside.rename(aside.with_name(name))

    def unhook(self, name: str) -> None:
        (self.run_dir / "hooks" / name).unlink(missing_ok=True)

    def pause_at(self, step: int) -> None:
        """The first line of the metrics is the base model's."""
        self.hook("pause_at", str(step + 1))

    def wait_for_step(self, step: int) -> None:
        wait_until(lambda: self.step >= step, what=f"step {step}", log=self.log)

    def wait_until_held(self) -> None:
        """A checkpoint is written and not yet published."""
        held = self.run_dir / "hooks" / "held"
        wait_until(lambda: held.exists() and self.partials, what="a save", log=self.log)

    def wait_for_end(self) -> None:
        self.cluster.wait_for(self.job)

    @property
    def step(self) -> int:
        return max(len(self.records()) - 1, 0)

    @property
    def state(self) -> str:
        """Slurm's word; nothing once the job has ended."""
        return " ".join(self.cluster.jobs(self.job, show="%T"))

    @property
    def partials(self) -> list[Path]:
        return list((self.run_dir / "checkpoints").glob(".step_*.partial"))

    def records(self) -> list[dict[str, Any]]:
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def losses(self) -> list[float]:
        return [record["loss"] for record in self.records()[1:]]

    def log(self) -> str:
        path = self.run_dir / "logs" / "train.log"
        return path.read_text() if path.exists() else ""

    def jobs(self, event: str) -> list[dict[str, Any]]:
        path = self.run_dir / "logs" / "jobs.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for line in lines if (record := json.loads(line))["event"] == event]

    def starts(self) -> int:
        return len(self.jobs("start"))

    def wait_for_start(self, number: int) -> None:
        wait_until(lambda: self.starts() >= number, what=f"start {number}", log=self.log)


def launch(cluster: Cluster, run_dir: Path, *settings: str, nodes: int = 2) -> Run:
    """With hooks; ``settings`` come last and win."""
    (run_dir / "hooks").mkdir(parents=True, exist_ok=True)
    rank = run_dir / "hooks" / "python"
    path = f'PYTHONPATH="{rank.parent}/path_$(hostname):$PYTHONPATH"'
    rank.write_text(f'#!/bin/sh\n{path} exec {sys.executable} {HOOKED_RANK} "$@"\n')
    rank.chmod(0o755)
    own = [f"run_dir={run_dir}", f"cluster.slurm.python={rank}", f"cluster.nodes={nodes}"]
    said = megacpt(cluster, "launch", *SETTINGS, *own, *settings)
    found = re.match(r"Job (\d+) is queued", said)
    assert found is not None, said
    return Run(cluster=cluster, run_dir=run_dir, job=found.group(1))


def megacpt(cluster: Cluster, *words: str) -> str:
    command = [sys.executable, "-m", "megacpt", *words]
    done = subprocess.run(command, env=cluster.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
