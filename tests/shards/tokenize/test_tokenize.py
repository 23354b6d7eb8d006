# SPDX-License-Identifier: Apache-2.0
"""Files to a shard: every document once with its EOS, and the same bytes however it is made."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from megacpt.corpus.workers import processes
from megacpt.errors import ConfigError, DataError, EnvironmentError_
from megacpt.shards.manifest import verify
from megacpt.shards.reader import IndexedShard
from megacpt.shards.tokenize import tokenize
from megacpt.shards.tokenize.join import merge
from megacpt.shards.tokenize.progress import TokenizeProgress
from megacpt.shards.tokenize.work_folder import WorkFolder
from megacpt.tokenizer import load_tokenizer
from tests.corpus.cases import PIECE, TINY, decoded, make, shard_bytes, words, write_jsonl

ROOT = Path(__file__).parents[3]
TEXTS = ["one", "two words", "", "ünïcode ✓", "last"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files, cut into small pieces by the tests: plain, compressed, plain."""
    folder = tmp_path_factory.mktemp("corpus")
    return [
        write_jsonl(folder / "a.jsonl", words(400, seed=1)),
        write_jsonl(folder / "b.jsonl.gz", words(60, seed=2)),
        write_jsonl(folder / "c.jsonl", words(200, seed=3)),
    ]


@pytest.fixture(scope="module")
def undisturbed(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    prefix = tmp_path_factory.mktemp("undisturbed") / "out"
    make(corpus, prefix, piece_size=1 << 16)
    return shard_bytes(prefix)


def test_documents_end_with_eos_and_empty_ones_are_counted(tmp_path: Path) -> None:
    manifest = make([write_jsonl(tmp_path / "a.jsonl", TEXTS)], tmp_path / "out")
    kept = [text for text in TEXTS if text]
    assert decoded(tmp_path / "out") == kept
    assert (manifest.documents, manifest.empty_documents) == (4, 1)
    assert manifest.tokens == sum(len(t.encode()) + 1 for t in kept)
    assert verify(tmp_path / "out") == manifest


def test_without_eos(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["ab", "c"])
    make([source], tmp_path / "out", append_eos=False)
    assert IndexedShard(tmp_path / "out").lengths.tolist() == [2, 1]


def test_an_eos_that_is_there_already_is_not_doubled(tmp_path: Path) -> None:
    make([write_jsonl(tmp_path / "a.jsonl", ["ab<eos>", "c", "<eos>"])], tmp_path / "out")
    assert IndexedShard(tmp_path / "out").lengths.tolist() == [3, 2, 1]


def test_files_follow_one_another(tmp_path: Path) -> None:
    sources = [
        write_jsonl(tmp_path / "b.jsonl.gz", ["b1", "b2"], key="body"),
        write_jsonl(tmp_path / "a.jsonl", ["a"], key="body"),
    ]
    manifest = make(sources, tmp_path / "sub" / "out", key="body")
    assert decoded(tmp_path / "sub" / "out") == ["b1", "b2", "a"]
    assert [Path(file.path).name for file in manifest.inputs] == ["b.jsonl.gz", "a.jsonl"]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_bytes_do_not_depend_on_workers(
    corpus: list[Path], undisturbed: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    make(corpus, tmp_path / "out", workers=workers, piece_size=1 << 16)
    assert shard_bytes(tmp_path / "out") == undisturbed
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".idx", ".json"]


def test_bytes_do_not_depend_on_the_cut(
    corpus: list[Path], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    for size in (999, 1 << 13, PIECE):
        make(corpus, tmp_path / "out", piece_size=size, workers=2)
        found = shard_bytes(tmp_path / "out")
        assert all(found[kind] == undisturbed[kind] for kind in ("bin", "idx"))


@pytest.mark.slow
def test_bytes_do_not_depend_on_processes(
    corpus: list[Path],
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "BYTES_MIN", 1 << 18)
    make(corpus, tmp_path / "out", workers=9, piece_size=1 << 16)
    assert shard_bytes(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(("count", "first"), [(2, 1), (4, 3)])
def test_tasks_and_merge_make_the_same_bytes(
    corpus: list[Path], undisturbed: dict[str, bytes], tmp_path: Path, count: int, first: int
) -> None:
    options = {"tokenizer": TINY, "output_prefix": tmp_path / "out", "piece_size": 1 << 16}
    order = [first, *(k for k in range(count) if k != first)]
    for k in order[:-1]:
        assert tokenize(corpus, task=(k, count), workers=1, **options) is None
    with pytest.raises(DataError, match=r"out.pieces lacks \d+ of \d+ pieces \(numbers .*start"):
        merge(tmp_path / "out")
    tokenize(corpus, task=(order[-1], count), workers=2, **options)
    assert merge(tmp_path / "out") == verify(tmp_path / "out")
    assert shard_bytes(tmp_path / "out") == undisturbed
    with pytest.raises(DataError, match=r"plan.json does not exist: nothing was tokenized"):
        merge(tmp_path / "out")


def test_a_run_takes_over_what_tasks_have_finished(
    corpus: list[Path], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    options = {"tokenizer": TINY, "piece_size": 1 << 16, "workers": 1}
    tokenize(corpus, task=(1, 3), output_prefix=tmp_path / "out", **options)
    told: list[str] = []
    make(corpus, tmp_path / "out", piece_size=1 << 16, notice=told.append)
    assert len(told) == 1
    assert "pieces are there already" in told[0]
    assert shard_bytes(tmp_path / "out") == undisturbed


def test_another_plan_is_started_over_by_a_run_and_refused_by_a_task(
    corpus: list[Path], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    options = {"tokenizer": TINY, "output_prefix": tmp_path / "out", "piece_size": 1 << 16}
    tokenize(corpus, task=(0, 2), workers=1, append_eos=False, **options)
    with pytest.raises(DataError, match=r"differs in append_eos; give all tasks the same"):
        tokenize(corpus, task=(1, 2), workers=1, **options)
    with pytest.raises(DataError, match=r"differs in inputs; give all tasks the same"):
        tokenize(corpus[:2], task=(1, 2), workers=1, append_eos=False, **options)
    told: list[str] = []
    make(corpus, tmp_path / "out", piece_size=1 << 16, notice=told.append)
    assert "was of other inputs or settings (append_eos): redone" in told[0]
    assert shard_bytes(tmp_path / "out") == undisturbed


COMMAND = """
import sys
from pathlib import Path
from megacpt.shards.tokenize import tokenize
prefix, *inputs = sys.argv[1:]
print("started", flush=True)
tokenize(inputs, tokenizer=Path({tiny!r}), output_prefix=prefix, workers=2, piece_size=1 << 13)
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_and_then_the_same_bytes(
    corpus: list[Path], tmp_path: Path
) -> None:
    code = COMMAND.format(tiny=str(TINY))
    command = [sys.executable, "-c", code, str(tmp_path / "out"), *map(str, corpus)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    make(corpus, tmp_path / "reference", piece_size=1 << 13)
    expected = shard_bytes(tmp_path / "reference")
    rng, lasts_s = random.Random(7), 0.5
    kills = 0
    while kills < 10:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        started_at = time.monotonic()
        try:
            process.wait(timeout=rng.random() * lasts_s)
            # It ended first: begin again, and kill sooner.
            assert shard_bytes(tmp_path / "out") == expected
            lasts_s = max((time.monotonic() - started_at) / 2, 0.05)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    assert shard_bytes(tmp_path / "out") == expected
    assert not WorkFolder(tmp_path / "out").path.exists()


def test_progress_reaches_the_end(corpus: list[Path], tmp_path: Path) -> None:
    seen: list[TokenizeProgress] = []
    manifest = make(corpus, tmp_path / "out", workers=2, progress=seen.append)
    last = seen[-1]
    assert last.bytes_done == last.bytes_total == sum(path.stat().st_size for path in corpus)
    assert (last.documents, last.tokens) == (manifest.documents, manifest.tokens)
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_line_leaves_nothing(tmp_path: Path, workers: int) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with source.open("a") as stream:
        stream.write('{"text": 3}\n')
    with pytest.raises(DataError, match=r"a.jsonl:6: holds no text under 'text'.*--on-error skip"):
        make([source], tmp_path / "out", workers=workers)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "a.jsonl: no lines"), (["", ""], "all 2 texts under 'text' are empty")],
)
def test_an_empty_corpus_is_named(tmp_path: Path, texts: list[str], message: str) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    with pytest.raises(DataError, match=rf"the corpus is empty \(.*{message}\); give files"):
        make([source], tmp_path / "out")
    with pytest.raises(DataError, match=r"the corpus is empty \(no files"):
        make([], tmp_path / "out")


def test_a_tokenizer_without_eos_is_named(tmp_path: Path) -> None:
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"names no end-of-text token, .* set eos_token"):
        make([source], tmp_path / "out", tokenizer=tmp_path)


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "corpus.json", TEXTS)
    with pytest.raises(DataError, match=r"would replace input .*corpus.json; choose another"):
        make([source], tmp_path / "corpus")
    other = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"corpus.json exists and is not a manifest"):
        make([other], tmp_path / "corpus")


def test_a_finished_shard_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new one"):
        make([write_jsonl(tmp_path / "a.jsonl", [text])], tmp_path / "out")
    assert verify(tmp_path / "out").tokens == len("new one") + 1


def test_a_full_disk_keeps_finished_pieces_and_the_next_run_goes_on(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(600, seed=5))
    make([source], tmp_path / "reference", piece_size=1 << 16)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(EnvironmentError_, match=r"out.pieces cannot be written: File too larg"):
            make([source], tmp_path / "out", workers=2, piece_size=1 << 16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(Path(f"{tmp_path}/out.{kind}").exists() for kind in ("bin", "idx", "json"))
    told: list[str] = []
    make([source], tmp_path / "out", piece_size=1 << 16, notice=told.append)
    assert "pieces are there already" in told[0]
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "reference")


def test_a_disk_that_is_full_at_the_end_leaves_no_half_written_shard(tmp_path: Path) -> None:
    """The tokens fit; the index, which comes last, does not."""
    source = write_jsonl(tmp_path / "a.jsonl", ["x"] * 30_000)
    old = write_jsonl(tmp_path / "b.jsonl", ["old"])
    make([old], tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(EnvironmentError_, match=r"out cannot be written: File too large"):
            make([source], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert shard_bytes(tmp_path / "out") == before
    assert not list(tmp_path.glob("*.partial*"))
    told: list[str] = []
    assert make([source], tmp_path / "out", notice=told.append).documents == 30_000
    assert told == ["1 of 1 pieces are there already."]


def test_damaged_pieces_are_made_anew(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(100, seed=6))
    make([source], tmp_path / "reference", piece_size=1 << 14)
    options = {"tokenizer": TINY, "workers": 1, "piece_size": 1 << 14}
    for k in range(2):
        tokenize([source], task=(k, 2), output_prefix=tmp_path / "out", **options)
    log = next((tmp_path / "out.pieces").glob("*.bin"))
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged .*; its pieces are made again by the same"):
        merge(tmp_path / "out")
    make([source], tmp_path / "out", piece_size=1 << 14)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "reference")


def test_a_pipe_is_kept_and_gives_the_bytes_of_the_file(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(50, seed=8))
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes(source.read_bytes()), daemon=True
    )
    writer.start()
    make([tmp_path / "pipe"], tmp_path / "piped")
    writer.join()
    make([source], tmp_path / "out")
    for kind in ("bin", "idx"):
        assert (
            Path(f"{tmp_path}/piped.{kind}").read_bytes()
            == Path(f"{tmp_path}/out.{kind}").read_bytes()
        )
    assert not (tmp_path / "piped.pieces").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, r"workers=-1 must be at least 0"),
        ({"max_document_bytes": 0}, r"max_document_bytes=0 must be at least 1"),
        ({"task": (2, 2)}, r"task=2/2 must be K/N with K from 0 to N-1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make([], tmp_path / "out", **options)


def test_tokens_are_the_tokenizer_s(tmp_path: Path) -> None:
    texts = [text for text in words(40, seed=9) if text]
    make([write_jsonl(tmp_path / "a.jsonl", texts)], tmp_path / "out")
    tokenizer, shard = load_tokenizer(TINY), IndexedShard(tmp_path / "out")
    for n, text in enumerate(texts):
        assert shard.document(n).tolist() == [*tokenizer.encode(text), tokenizer.eos_id]
