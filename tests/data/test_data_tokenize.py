# SPDX-License-Identifier: Apache-2.0
"""JSONL to shard: every document once with its EOS, the same bytes for any number of workers."""

from __future__ import annotations

import gzip
import json
import resource
import shutil
from pathlib import Path

import pytest

from megacpt.data import jsonl
from megacpt.data.indexed import IndexedShard
from megacpt.data.manifest import verify
from megacpt.data.tokenize import Progress, tokenize
from megacpt.errors import ConfigError, DataError, EnvironmentError_
from megacpt.tokenizer import load_tokenizer

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"
TEXTS = ["one", "two words", "", "ünïcode ✓", "last"]


def write(path: Path, texts: list[str], *, key: str = "text") -> Path:
    content = "".join(json.dumps({key: text}) + "\n" for text in texts)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def long_corpus(tmp_path: Path) -> Path:
    """More blocks than are under way at once with two workers."""
    text = "lorem ipsum " * (jsonl.BLOCK_BYTES // 24)
    return write(tmp_path / "long.jsonl", [f"{n} {text}" for n in range(16)])


def test_documents_end_with_eos_and_empty_ones_are_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", TEXTS)
    manifest = tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "out", workers=1)
    shard, tokenizer = IndexedShard(tmp_path / "out"), load_tokenizer(TINY)
    kept = [text for text in TEXTS if text]
    assert [tokenizer.decode(shard.document(n)) for n in range(4)] == [f"{t}<eos>" for t in kept]
    assert (manifest.documents, manifest.empty_documents) == (4, 1)
    assert manifest.tokens == shard.num_tokens == sum(len(t.encode()) + 1 for t in kept)
    assert verify(tmp_path / "out") == manifest


def test_without_eos(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ["ab", "c"])
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "out", append_eos=False, workers=1)
    assert IndexedShard(tmp_path / "out").lengths.tolist() == [2, 1]


def test_an_eos_that_is_there_already_is_not_doubled(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ["ab<eos>"])
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "out", workers=1)
    assert IndexedShard(tmp_path / "out").lengths.tolist() == [3]


def test_files_follow_one_another(tmp_path: Path) -> None:
    sources = [
        write(tmp_path / "b.jsonl.gz", ["b1", "b2"], key="body"),
        write(tmp_path / "a.jsonl", ["a"], key="body"),
    ]
    manifest = tokenize(
        sources, tokenizer=TINY, output_prefix=tmp_path / "sub" / "out", key="body", workers=1
    )
    tokens = IndexedShard(tmp_path / "sub" / "out").span(0, manifest.tokens)
    assert load_tokenizer(TINY).decode(tokens) == "b1<eos>b2<eos>a<eos>"
    assert [Path(file.path).name for file in manifest.inputs] == ["b.jsonl.gz", "a.jsonl"]


def test_bytes_do_not_depend_on_workers_and_progress_reaches_the_end(tmp_path: Path) -> None:
    source = long_corpus(tmp_path)
    seen: dict[int, list[Progress]] = {0: [], 1: [], 3: []}
    for workers, progress in seen.items():
        tokenize(
            [source],
            tokenizer=TINY,
            output_prefix=tmp_path / f"out{workers}",
            workers=workers,
            progress=progress.append,
        )
        assert len(progress) > 6
        last = progress[-1]
        assert last.bytes_done == last.bytes_total == source.stat().st_size
        assert last.tokens == IndexedShard(tmp_path / f"out{workers}").num_tokens
    for kind in ("bin", "idx"):
        assert len({(tmp_path / f"out{w}.{kind}").read_bytes() for w in seen}) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_line_leaves_nothing(tmp_path: Path, workers: int) -> None:
    source = write(tmp_path / "a.jsonl", TEXTS)
    with source.open("a") as stream:
        stream.write('{"text": 3}\n')
    with pytest.raises(DataError, match=r"a.jsonl:6: holds no text under 'text'"):
        tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "out", workers=workers)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "a.jsonl: no lines"), (["", ""], "all 2 texts under 'text' are empty")],
)
def test_an_empty_corpus_is_named(tmp_path: Path, texts: list[str], message: str) -> None:
    source = write(tmp_path / "a.jsonl", texts)
    with pytest.raises(DataError, match=rf"the corpus is empty \(.*{message}\); give files"):
        tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "out", workers=1)
    with pytest.raises(DataError, match=r"the corpus is empty \(no files"):
        tokenize([], tokenizer=TINY, output_prefix=tmp_path / "out", workers=1)


def test_a_tokenizer_without_eos_is_named(tmp_path: Path) -> None:
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    source = write(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"names no end-of-text token, .* set eos_token"):
        tokenize([source], tokenizer=tmp_path, output_prefix=tmp_path / "out", workers=1)


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    source = write(tmp_path / "corpus.json", TEXTS)
    with pytest.raises(DataError, match=r"would replace input .*corpus.json; choose another"):
        tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "corpus", workers=1)
    other = write(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"corpus.json exists and is not a manifest"):
        tokenize([other], tokenizer=TINY, output_prefix=tmp_path / "corpus", workers=1)


def test_a_finished_shard_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new one"):
        source = write(tmp_path / "a.jsonl", [text])
        tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "out", workers=1)
    assert verify(tmp_path / "out").tokens == len("new one") + 1


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = long_corpus(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))
    try:
        with pytest.raises(EnvironmentError_, match=r"out cannot be written: File too large"):
            tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "out", workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [source]


def test_a_negative_number_of_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers=-1 must be at least 0"):
        tokenize([], tokenizer=TINY, output_prefix=tmp_path / "out", workers=-1)
