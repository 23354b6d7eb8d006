# SPDX-License-Identifier: Apache-2.0
"""Machines that share the pieces make what one machine makes."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from megacpt.corpus import pieces
from megacpt.corpus.workers.processes import Report
from megacpt.corpus.workers.share import NO_PIECES, Share
from megacpt.curate.distributed import stages
from megacpt.curate.distributed.stages import StagePart, make_share
from megacpt.curate.pipeline import Watcher, open_corpus
from megacpt.curate.work import Reading, Unfinished, make_once
from megacpt.errors import ConfigError, DataError
from tests.curate import steps

TASKS = 3
PASSES = (StagePart.pieces, StagePart.pieces, StagePart.once, StagePart.pieces)
"""Of the step ``both``."""


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    steps.use(monkeypatch, folder=tmp_path)
    monkeypatch.setattr(stages, "STAGES", {"deduplicate": lambda _: PASSES})
    steps.write_corpus(tmp_path, files=2, count=40)
    return tmp_path


@pytest.fixture
def alone(corpus: Path) -> dict[str, bytes]:
    """What one machine makes of it; it is out of the way."""
    steps.run()
    (corpus / "out").rename(corpus / "alone")
    return steps.tree(corpus / "alone")


def share(number: int, *, of: int = TASKS) -> str | None:
    left = make_share(steps.settings(), share=Share(number, of), watcher=Watcher())
    return str(left) if left else None


def test_tasks_one_after_another(corpus: Path, alone: dict[str, bytes]) -> None:
    waiting = [[share(number) for number in range(TASKS)] for _ in PASSES]
    # A pass ends with the last task, which goes on to the next; task 0 also does what is done once.
    assert waiting[0][0] is not None
    assert "pieces of out.work/1-deduplicate/a are left to other tasks" in waiting[0][0]
    assert waiting[-1][-1] is None
    assert not (corpus / "out").exists()
    steps.run()
    assert steps.tree(corpus / "out") == alone


def test_the_output_is_whole_whatever_tasks_have_left(
    corpus: Path, alone: dict[str, bytes]
) -> None:
    share(1)
    share(1, of=2)
    share(2)
    steps.run()
    assert steps.tree(corpus / "out") == alone


def test_tasks_at_the_same_time(corpus: Path, alone: dict[str, bytes]) -> None:
    context = multiprocessing.get_context("fork")
    for part in PASSES:
        tasks = range(TASKS) if part is StagePart.pieces else [0]
        running = [context.Process(target=share, args=(number,)) for number in tasks]
        for process in running:
            process.start()
        for process in running:
            process.join()
            assert process.exitcode == 0
    assert share(1) is None
    steps.run()
    assert steps.tree(corpus / "out") == alone


def test_other_settings_are_refused_by_a_task(corpus: Path) -> None:
    share(0)
    (corpus / "law" / "1.jsonl").write_text('{"text": "another"}\n')
    with pytest.raises(DataError, match=r"plan.json is of other inputs .* remove out.work/1-ded"):
        share(1)


def test_standard_input_is_not_shared(corpus: Path) -> None:
    config = steps.settings("sources.law.files=law,-")
    with pytest.raises(ConfigError, match=r"sources.law.files=law,- has standard input in it"):
        make_share(config, share=Share(0, 2), watcher=Watcher())


def test_what_is_done_once_is_done_by_the_first(corpus: Path) -> None:
    found, _ = open_corpus(steps.settings(), spool=corpus)
    made: list[str] = []

    def work(share: Share | None) -> None:
        make_once(
            found,
            settings={},
            folder=corpus / "once",
            reading=Reading(share=share),
            make=lambda: made.append("made"),
        )

    for number in (1, 2):
        with pytest.raises(Unfinished, match="are left to other tasks"):
            work(Share(number, TASKS))
    assert made == []
    for share in (NO_PIECES, *(Share(number, TASKS) for number in range(TASKS)), None):
        work(share)
    assert made == ["made"]


def test_datatrove_runs_the_stages(corpus: Path, alone: dict[str, bytes]) -> None:
    local = pytest.importorskip("datatrove.executor.local")
    stats = pytest.importorskip("datatrove.utils.stats")
    config = steps.settings()
    for stage in stages.stages(config, stats=stats.Stats):
        local.LocalPipelineExecutor(
            pipeline=[stage],
            tasks=TASKS if stage.part is StagePart.pieces else 1,
            workers=1,
            logging_dir=str(corpus / "logs" / stage.name),
        ).run()
    assert steps.tree(corpus / "out") == alone
    names = sorted(path.name for path in (corpus / "logs").iterdir())
    assert names == [
        "01-1-deduplicate-pieces",
        "02-1-deduplicate-pieces",
        "03-1-deduplicate-once",
        "04-1-deduplicate-pieces",
        "05-all-output",
    ]
    # The passes were shared: the last job has read nothing.
    read = {name: documents_read(corpus / "logs" / name) for name in names}
    counts = json.loads(alone["curation.json"])["steps"][0]["counts"]
    assert read["01-1-deduplicate-pieces"] == 80
    assert read["04-1-deduplicate-pieces"] == sum(c["documents_in"] for c in counts.values())
    assert read["03-1-deduplicate-once"] == read["05-all-output"] == 0


OF_STEPS = {
    "exact": ("deduplicate.near=null",),
    "near": ("deduplicate.near.threshold=0.7",),
    "lines": ("deduplicate.near.threshold=0.7", "deduplicate.lines.words=2"),
    "balance": (
        "deduplicate=null",
        "balance.ratio=9",
        "sources.web.files=law/1.jsonl",
        "sources.web.kind=general",
    ),
}


@pytest.mark.parametrize("more", OF_STEPS.values(), ids=OF_STEPS)
def test_the_stages_of_a_step_are_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES_MIN", 2048)
    monkeypatch.chdir(tmp_path)
    steps.write_corpus(tmp_path, files=2, count=40)
    steps.run(*more)
    alone = steps.tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "alone")
    config = steps.settings(*more)
    read: list[int] = []

    def begins(name: str, num_bytes: int) -> Report:
        return lambda num_bytes, documents, tokens=0: read.append(documents)

    for stage in stages.stages(config, stats=str):
        if stage.part is StagePart.output:
            break
        by = (
            [Share(n, TASKS) for n in range(TASKS)]
            if stage.part is StagePart.pieces
            else [NO_PIECES]
        )
        # In this order the first, who does what is done once, never finds a pass complete.
        for share in by:
            make_share(config, share=share, watcher=Watcher(begins=begins))
        assert bool(read) == (stage.part is StagePart.pieces), stage.name
        read.clear()
    steps.run(*more, watcher=Watcher(begins=begins))
    assert read == []
    assert steps.tree(tmp_path / "out") == alone


def documents_read(logs: Path) -> int:
    """By all tasks of a stage, as datatrove has added it up."""
    (stats,) = json.loads((logs / "stats.json").read_text())
    documents = stats["stats"]["documents"]
    return int(documents["total"] if isinstance(documents, dict) else documents)
