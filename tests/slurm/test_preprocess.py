# SPDX-License-Identifier: Apache-2.0
"""launch/preprocess.sbatch on a real Slurm: tasks are killed and requeued, the bytes are the same.

Both ways a site loses a task are here: a node loses power while it runs two, and one is requeued
by hand. The restarted tasks find the pieces that were finished and go on.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from string import ascii_lowercase

import pytest
import sentencepiece

from megacpt.corpus.pieces import PIECE_BYTES_MIN
from megacpt.shards.manifest import verify
from megacpt.shards.tokenize import tokenize
from tests.slurm.support import Cluster, wait_until

SBATCH = Path(__file__).parents[2] / "launch" / "preprocess.sbatch"
TASKS = 4
PIECES = 8
FIRST = 3
"""Number of the first task: arrays need not begin at 0."""

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of eight pieces (of 8 MiB, cut within lines), two for each task; and a SentencePiece
    model: the slowest kind of tokenizer, so that a task can be caught at work."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = ["".join(rng.choices(ascii_lowercase, k=rng.randint(2, 9))) for _ in range(2000)]
    sentences = iter([" ".join(rng.choices(words, k=50)) for _ in range(400)])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_prefix=str(folder / "sp"),
        vocab_size=400,
        model_type="bpe",
        minloglevel=2,
    )
    with (folder / "law.jsonl").open("w") as stream:
        while stream.tell() < (PIECES - 0.1) * PIECE_BYTES_MIN:
            stream.write(json.dumps({"text": " ".join(rng.choices(words, k=900))}) + "\n")
    return folder


def places_with_pieces(output: Path) -> set[int]:
    found = Path(f"{output}.pieces").glob("[0-9][0-9][0-9][0-9][0-9].json")
    return {int(path.stem) % TASKS for path in found}


def test_killed_tasks_go_on_and_the_bytes_are_those_of_one_machine(
    cluster: Cluster, tmp_path: Path, folder: Path
) -> None:
    output = tmp_path / "on_slurm" / "law"
    options = [folder / "law.jsonl", "--tokenizer", folder / "sp.model", "--workers", "1"]
    options += ["--output", output]
    # Half of a node each (the sandbox claims 64 cores), so that both nodes have two tasks.
    limits = ["--cpus-per-task=32", "--mem-per-cpu=0", f"--output={tmp_path}/%j.log"]
    array = cluster.submit(f"--array={FIRST}-{FIRST + TASKS - 1}", *limits, SBATCH, *options)
    after = [f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes"]
    merge = cluster.submit(*after, *limits, SBATCH, "--merge", "--output", output)
    kill_in_mid_work(cluster, array, output=output)
    cluster.wait_for(array)
    cluster.wait_for(merge)
    logs = {path.stem: path.read_text() for path in tmp_path.glob("*.log")}
    restarted = [log for log in logs.values() if "start 2" in log]
    assert len(restarted) == 3, logs
    assert any("1 of 2 pieces are there already." in log for log in restarted), logs
    assert not Path(f"{output}.pieces").exists(), logs
    assert_made_by_one_machine(output, folder, alone=tmp_path / "alone" / "law")


def kill_in_mid_work(cluster: Cluster, array: str, *, output: Path) -> None:
    """The node of a task that has a piece loses power, and a task on the other is requeued."""
    wait_until(lambda: places_with_pieces(output), what="a piece")
    place = places_with_pieces(output).pop()
    rows = [row.split() for row in cluster.jobs(array, show="%K %N %F_%K")]
    node = next(node for index, node, _ in rows if int(index) - FIRST == place)
    other_job = next(job for _, other, job in rows if other != node)
    cluster.sandbox("crash", node)
    cluster.run("scontrol", "requeue", other_job)
    cluster.sandbox("boot", node)


def assert_made_by_one_machine(output: Path, folder: Path, *, alone: Path) -> None:
    tokenizer = folder / "sp.model"
    expected = tokenize([folder / "law.jsonl"], tokenizer=tokenizer, output_prefix=alone, workers=2)
    for kind in ("bin", "idx"):
        assert Path(f"{output}.{kind}").read_bytes() == Path(f"{alone}.{kind}").read_bytes()
    assert verify(output) == expected
