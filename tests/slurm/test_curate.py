# SPDX-License-Identifier: Apache-2.0
"""A curation as datatrove's jobs on a real Slurm: a node dies under its tasks, and the bytes are
those of one machine."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megacpt.corpus.pieces import PIECE_BYTES_MIN
from megacpt.curate.config import read_config
from megacpt.curate.pipeline import curate
from tests.curate.steps import tree
from tests.slurm.support import Cluster, wait_until

TASKS = 4
PIECES = 8
STAGES = 4
"""Sketches, who goes, what is left; the output."""

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
pytest.importorskip("datatrove")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a corpus of eight pieces, two for each task; a third of it are near duplicates."""
    rng = random.Random(0)
    raw = tmp_path_factory.mktemp("raw") / "law.jsonl"
    words = [f"{rng.choice('bcdfglmnprst')}{n:x}" for n in range(4000)]
    old: list[list[str]] = []
    with raw.open("w") as stream:
        while stream.tell() < (PIECES - 0.1) * PIECE_BYTES_MIN:
            text = rng.choices(words, k=300)
            if old and rng.random() < 0.3:
                text = [*rng.choice(old), rng.choice(words)]
            elif len(old) < 3000:
                old.append(text)
            stream.write(json.dumps({"text": " ".join(text)}) + "\n")
    return [
        "output=out",
        f"sources.law.files={raw}",
        "deduplicate.near.threshold=0.8",
        "slurm.partition=main",
        f"slurm.tasks={TASKS}",
        # Half of a node each (the sandbox claims 64 cores), so that two nodes have two tasks.
        "slurm.cpus_per_task=32",
        "workers=1",
    ]


def pieces(folder: Path) -> list[Path]:
    return list((folder / "out.work").glob("*/sketches/[0-9]*.json"))


def test_a_node_dies_and_the_bytes_are_those_of_one_machine(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    (tmp_path / "alone").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "megacpt", "curate", *settings],
        cwd=tmp_path,
        env=cluster.env,
        capture_output=True,
        text=True,
        check=True,
    )
    jobs = re.findall(r"^Job (\d+) +\d\d-", done.stdout, flags=re.MULTILINE)
    assert len(jobs) == STAGES, done.stdout
    wait_until(lambda: pieces(tmp_path), what="a piece", log=lambda: logs(tmp_path))
    rows = [row.split() for row in cluster.jobs(jobs[0], show="%T %N %A %F_%K")]
    running = {job: node for state, node, job, _ in rows if state == "RUNNING"}
    assert len(running) == TASKS
    assert len(set(running.values())) == 2
    node = next(iter(running.values()))
    cluster.sandbox("crash", node)
    cluster.sandbox("boot", node)
    for job in jobs:
        cluster.wait_for(job)
    restarts = re.findall(r"Restarts=(\d+)", cluster.run("scontrol", "show", "job", jobs[0]))
    assert sorted(restarts) == ["0", "0", "1", "1"], logs(tmp_path)
    assert (tmp_path / "out").is_dir(), logs(tmp_path)
    monkeypatch.chdir(tmp_path / "alone")
    curate(read_config(None, overrides=[*settings, "workers=2"]))
    assert tree(tmp_path / "out") == tree(tmp_path / "alone" / "out")
    # Tasks have shared each pass, and the last job has read nothing.
    counts = {path.parent.name: read(path) for path in (tmp_path / "out.slurm").glob("*/stats")}
    assert counts.pop("04-all-output") == [0]
    assert counts.pop("02-1-deduplicate-once") == [0]
    # One that ends a pass may go on to the next at once.
    assert all(sum(n > 0 for n in tasks) >= TASKS - 1 for tasks in counts.values()), counts


def read(stats: Path) -> list[int]:
    """Documents that each task of a stage has read, as datatrove counts."""
    found = [json.loads(path.read_text())[0]["stats"]["documents"] for path in stats.iterdir()]
    return [total["total"] if isinstance(total, dict) else total for total in found]


def logs(folder: Path) -> str:
    found = sorted((folder / "out.slurm").rglob("*.out"))
    return "\n".join(f"{path}\n{path.read_text(errors='replace')[-3000:]}" for path in found)
