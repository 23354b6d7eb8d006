# SPDX-License-Identifier: Apache-2.0
"""A curation that is killed, or finds the disk full, goes on to the same bytes."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from megacpt.corpus.curation import Curation
from megacpt.curate import pipeline
from megacpt.curate.deduplicate import run as deduplicate
from megacpt.curate.pipeline import Watcher
from megacpt.errors import EnvironmentError_
from tests.curate import steps

MOMENTS = 10
KINDS = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    steps.use(monkeypatch, folder=tmp_path)
    steps.write_corpus(tmp_path, files=2, count=40)
    return tmp_path


def in_child(work: Callable[[], Any]) -> int:
    """Exit status of a copy of this process that does it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return status


def killed_at(moment: int, *, folder: Path, pipe: int | None = None) -> None:
    """Curate until so many files were opened to be written, renamed, linked or removed, or batches
    were read, and have SIGKILL then. Tells ``pipe`` of each."""
    seen = 0

    def happens(*_: Any, **__: Any) -> None:
        nonlocal seen
        seen += 1
        if pipe is not None:
            os.write(pipe, b".")
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        is_write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_write or event in KINDS) and "out" in str(arguments[0]):
            happens()

    sys.addaudithook(hook)
    steps.run("workers=2", watcher=Watcher(begins=lambda name, num_bytes: happens))


def num_moments(folder: Path) -> int:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream:
        assert in_child(lambda: killed_at(-1, folder=folder, pipe=write)) == 0
        os.close(write)
        return len(stream.read())


@pytest.mark.parametrize("step", [steps.both, deduplicate.run], ids=["own", "deduplicate"])
def test_killed_at_ten_moments_it_goes_on_to_the_same_bytes(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, step: pipeline.RunStep
) -> None:
    monkeypatch.setitem(pipeline.RUN, "deduplicate", step)
    expected_moments = num_moments(corpus)
    expected = steps.tree(corpus / "out")
    unfinished = 0
    for n in range(MOMENTS):
        (corpus / "out").rename(corpus / f"done-{n}")
        moment = 1 + n * (expected_moments - 1) // (MOMENTS - 1)
        status = in_child(lambda m=moment: killed_at(m, folder=corpus))
        assert os.WIFSIGNALED(status), moment
        if not (corpus / "out").exists():
            unfinished += 1
            steps.run()
        assert steps.tree(corpus / "out") == expected, moment
    assert unfinished >= MOMENTS - 1


def test_killed_once_its_output_is_there_the_next_start_removes_the_rest(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = steps.run()
    whole = steps.tree(corpus / "out")
    (corpus / "out").rename(corpus / "done")
    rmtree = pipeline.shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if path.name != "out.work":
            rmtree(path, **options)
            return
        next(path.rglob("plan.json")).unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        monkeypatch.setattr(pipeline.shutil, "rmtree", killed)
        steps.run()

    assert os.WIFSIGNALED(in_child(work))
    assert (corpus / "out.work").is_dir()
    with pytest.raises(EnvironmentError_, match="out exists, and nothing is written over"):
        steps.run()
    assert not (corpus / "out.work").exists()
    assert steps.tree(corpus / "out") == whole
    assert Curation.read(corpus / "out") == expected


def test_what_was_finished_is_not_made_again(corpus: Path) -> None:
    moments = num_moments(corpus)
    (corpus / "out").rename(corpus / "done")
    in_child(lambda: killed_at(moments // 2, folder=corpus))
    read: list[int] = []

    def begins(name: str, num_bytes: int) -> Any:
        return lambda num_bytes, documents, tokens=0: read.append(num_bytes)

    steps.run(watcher=Watcher(begins=begins))
    again = sum(read)
    read.clear()
    (corpus / "out").rename(corpus / "twice")
    steps.run(watcher=Watcher(begins=begins))
    assert 0 < again < 0.8 * sum(read)
    assert steps.tree(corpus / "twice") == steps.tree(corpus / "done")


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", ["jsonl", "jsonl_zst", "parquet"])
def test_a_full_disk_leaves_nothing_half_written(corpus: Path, form: str) -> None:
    steps.run(f"form={form}")
    expected = steps.tree(corpus / "out")
    (corpus / "out").rename(corpus / "done")
    largest = max(len(content) for name, content in expected.items() if "law" in name)
    with (
        files_up_to(largest // 2),
        pytest.raises(EnvironmentError_, match=r"cannot be written: File too large"),
    ):
        steps.run(f"form={form}")
    assert not (corpus / "out").exists()
    steps.run(f"form={form}")
    assert steps.tree(corpus / "out") == expected
    assert not (corpus / "out.work").exists()
