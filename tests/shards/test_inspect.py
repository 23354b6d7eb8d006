# SPDX-License-Identifier: Apache-2.0
"""What is said of a shard equals what a plain count over its documents gives."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from megacpt.errors import ConfigError, DataError
from megacpt.monitor.dataset_text import shard_text
from megacpt.shards import inspect
from megacpt.shards.inspect import (
    SPAN,
    document_ends,
    inspect_shard,
    spans_to_read,
    to_json,
)
from megacpt.shards.manifest import read_shard_manifest
from megacpt.shards.reader import IndexedShard, write_shard
from megacpt.shards.tokenize import tokenize
from megacpt.shards.writer import ShardWriter
from megacpt.tokenizer import load_tokenizer
from tests.support import write_model_folder
from tests.tokenizer.test_files import packaged

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"
TEXTS = ["a rose", "", "bb", "c" * 700, "\u2028\x1b[31m"]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "shard", workers=1)
    return tmp_path / "shard"


def test_counts_of_a_shard_with_manifest(shard: Path) -> None:
    found = inspect_shard(shard)
    opened = IndexedShard(shard)
    stream = opened.span(0, stop=opened.num_tokens)
    assert (found.lengths.documents, found.lengths.tokens) == (4, stream.size)
    assert found.lengths.longest == 701
    assert found.sequences == 4
    counts = Counter(stream.tolist())
    use = found.vocabulary
    assert (use.vocab_size, use.ids_used, use.outside) == (257, len(counts), 0)
    assert (use.top[0].id, use.top[0].count, use.top[0].text) == (ord("c"), 700, None)
    assert {top.id: top.count for top in use.top}.items() <= counts.items()
    assert use.tokens_counted == stream.size
    assert found.ends is not None
    assert (found.ends.eos_id, found.ends.documents, found.ends.with_eos) == (256, 4, 4)
    assert found.manifest == read_shard_manifest(shard)
    size = (shard.parent / "texts.jsonl").stat().st_size
    assert found.input_bytes_per_token == size / stream.size


def test_samples_are_decoded_and_long_ones_cut(shard: Path) -> None:
    found = inspect_shard(shard, tokenizer=load_tokenizer(TINY), samples=9)
    texts = [(s.document, s.text, s.end) for s in found.samples]
    assert texts[0] == (0, "a rose<eos>", None)
    assert texts[2] == (2, "c" * 200, "c" * 15 + "<eos>")
    assert found.samples[2].tokens == 701
    assert found.vocabulary.top[0].text == "c"
    assert [
        s.document for s in inspect_shard(shard, tokenizer=load_tokenizer(TINY), samples=2).samples
    ] == [1, 3]


def test_a_shard_of_another_tool(tmp_path: Path) -> None:
    write_shard(tmp_path / "bare", documents=[[5, 1], [], [7, 7, 5]], vocab_size=9)
    found = inspect_shard(tmp_path / "bare")
    assert found.manifest is None
    assert found.ends is None
    assert found.input_bytes_per_token is None
    assert (found.vocabulary.vocab_size, found.vocabulary.largest_id) == (None, 7)
    with_tokenizer = inspect_shard(tmp_path / "bare", tokenizer=load_tokenizer(TINY))
    assert with_tokenizer.ends is not None
    assert (with_tokenizer.ends.documents, with_tokenizer.ends.with_eos) == (2, 0)


def test_a_shard_without_tokens(tmp_path: Path) -> None:
    write_shard(tmp_path / "none", documents=[], vocab_size=9)
    found = inspect_shard(tmp_path / "none", tokenizer=load_tokenizer(TINY), samples=3)
    assert (found.lengths.documents, found.vocabulary.ids_used) == (0, 0)
    assert found.samples == ()
    json.loads(to_json(found))


def test_ids_outside_the_vocabulary_are_counted_and_take_no_memory(tmp_path: Path) -> None:
    write_shard(tmp_path / "wild", documents=[[1, 2, 300, 2**31 - 1]], vocab_size=100_000)
    found = inspect_shard(tmp_path / "wild", tokenizer=load_tokenizer(TINY))
    assert (found.vocabulary.outside, found.vocabulary.ids_used) == (2, 2)
    assert inspect_shard(tmp_path / "wild").vocabulary.outside == 1


FOREIGN: dict[str, tuple[str, list[int]]] = {
    "label masks": ("int32", [5, -100, 7, 0]),
    "another vocabulary": ("int32", [5, 40_000, 7, 2] * 3 + [200_000] * 50),
    "nothing known": ("int64", [-1, 2**40, -(2**50)]),
    "signed bytes": ("int8", [104, -1, 105, 3, 3, -128]),
    "no token": ("int16", []),
    "as many as make it exact": ("uint16", [7] * 99 + [8]),
    "rounding": ("uint16", [7] * 98 + [8, 9]),
    "all of them once": ("uint8", list(range(256))),
}


@pytest.fixture(scope="module")
def tokenizers() -> list[Path]:
    return [TINY, packaged("mistral_common", "data", "tokenizer.model.v1")]


@pytest.mark.parametrize("name", FOREIGN)
def test_any_ids_are_counted_as_numpy_counts_them_and_shown(
    tmp_path: Path, tokenizers: list[Path], name: str
) -> None:
    dtype, ids = FOREIGN[name]
    with ShardWriter(tmp_path / "s", dtype=np.dtype(dtype)) as writer:
        writer.add(np.zeros(len(ids)))
        writer.publish()
    stored = np.array(ids, dtype=dtype)
    stored.tofile(tmp_path / "s.bin")
    for path in tokenizers:
        tokenizer = load_tokenizer(path)
        found = inspect_shard(tmp_path / "s", tokenizer=tokenizer, samples=2)
        use = found.vocabulary
        inside = stored[(stored >= 0) & (stored.astype(np.int64) < tokenizer.vocab_size)]
        values, counts = np.unique(inside, return_counts=True)
        assert (use.ids_used, use.outside) == (values.size, stored.size - inside.size)
        falling = np.sort(counts)[::-1].tolist()
        enough = [n for n in range(values.size) if sum(falling[:n]) * 100 < 99 * inside.size]
        assert use.ids_for_99_percent == len(enough)
        for top in use.top:
            assert top.count == counts[values == top.id].item()
        text = shard_text(found)
        warning = f"WARNING: {use.outside:,} tokens are outside the vocabulary"
        assert (warning in text) == (use.outside > 0)
        for id_ in {*stored.tolist()} - {*inside.tolist()}:
            assert any(f"<invalid id {id_}>" in shown.text for shown in found.samples)
        json.loads(to_json(found))


def test_a_large_shard_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With spans of 64 tokens a small shard is a large one."""
    monkeypatch.setattr(inspect, "SPAN", 64)
    rng = np.random.default_rng(3)
    documents = [[*rng.integers(1, 200, size=n), 256] for n in rng.integers(0, 30, size=300)]
    write_shard(tmp_path / "large", documents=documents, vocab_size=257)
    tokens = sum(len(document) for document in documents)
    tokenizer = load_tokenizer(TINY)
    told: list[tuple[int, int]] = []
    sampled = inspect_shard(
        tmp_path / "large",
        tokenizer=tokenizer,
        sampled_tokens=640,
        progress=lambda done, total: told.append((done, total)),
    )
    assert sampled.vocabulary.tokens_counted == 640
    assert told == [(64 * n, 640) for n in range(1, 11)]
    assert sampled.ends is not None
    assert 0 < sampled.ends.documents == sampled.ends.with_eos < 300
    assert sampled.lengths.documents == 300
    whole = inspect_shard(tmp_path / "large", tokenizer=tokenizer, sampled_tokens=None)
    assert whole.ends is not None
    assert (whole.vocabulary.tokens_counted, whole.ends.documents) == (tokens, 300)


@pytest.mark.parametrize("sampled", [None, 1, SPAN, 3 * SPAN, 64 * SPAN])
@pytest.mark.parametrize("tokens", [0, 1, SPAN, SPAN + 1, 7 * SPAN + 5])
def test_spans_lie_in_the_stream(tokens: int, sampled: int | None) -> None:
    spans = spans_to_read(tokens, sampled_tokens=sampled)
    assert all(0 <= start < stop <= min(start + SPAN, tokens) for start, stop in spans)
    if sampled is None or sampled >= tokens:
        assert sum(stop - start for start, stop in spans) == tokens
    else:
        assert sum(stop - start for start, stop in spans) >= min(sampled, tokens) - SPAN
    assert all(a[0] < b[0] for a, b in pairwise(spans))


def test_ends_of_documents_in_every_part_of_the_stream(tmp_path: Path) -> None:
    sizes = [3, 0, 1, 0, 0, 4, 2, 0]
    shard = write_shard(tmp_path / "s", documents=[[1] * n for n in sizes], vocab_size=9)
    ends = sorted({int(end) for end, n in zip(np.cumsum(sizes), sizes, strict=True) if n})
    for start in range(11):
        for stop in range(start, 11):
            expected = [end for end in ends if start < end <= stop]
            assert document_ends(shard, start=start, stop=stop).tolist() == expected


def test_another_tokenizer_is_refused(shard: Path, tmp_path: Path) -> None:
    other = write_model_folder(tmp_path / "other")
    path = other / "tokenizer.json"
    nfc = '"normalizer":{"type":"NFC"}'
    path.write_text(path.read_text().replace('"normalizer":null', nfc))
    with pytest.raises(DataError, match="was written with another tokenizer"):
        inspect_shard(shard, tokenizer=load_tokenizer(other))


def test_files_that_the_manifest_does_not_fit_are_refused(shard: Path, tmp_path: Path) -> None:
    write_shard(shard, documents=[[1, 2]], vocab_size=257)
    with pytest.raises(DataError, match=r"is not what .*shard.json says: documents, tokens"):
        inspect_shard(shard)


def test_samples_need_a_tokenizer(shard: Path) -> None:
    with pytest.raises(ConfigError, match="samples=1 must be at least 0 and needs a tokenizer"):
        inspect_shard(shard, samples=1)


def test_json_holds_all_of_it(shard: Path) -> None:
    found = inspect_shard(shard)
    content = json.loads(to_json(found))
    assert content["lengths"]["documents"] == 4
    assert content["vocabulary"]["top"][0] == {"id": 99, "count": 700, "text": None}
    assert content["manifest"]["inputs"][0]["path"].endswith("texts.jsonl")
    assert content["input_bytes_per_token"] == found.input_bytes_per_token
