# SPDX-License-Identifier: Apache-2.0
"""Merged shards are those of tokenizing everything at once, and of megatron-core's add_index."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.errors import DataError
from megacpt.shards import merge as module
from megacpt.shards.manifest import Manifest, read_shard_manifest, verify
from megacpt.shards.merge import merge_shards, shards_in
from megacpt.shards.reader import IndexedShard, write_shard
from megacpt.shards.tokenize import OnError, tokenize
from tests.support import write_model_folder

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"
KINDS = ("bin", "idx")

corpora = st.lists(
    st.lists(st.lists(st.integers(0, 60_000), max_size=9), max_size=6), min_size=1, max_size=4
)


def write_texts(path: Path, texts: list[str], *, key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts))
    return path


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    for name, texts in (("b", ["one", ""]), ("a", ["two", "three"]), ("c", ["four"])):
        source = write_texts(tmp_path / f"{name}.jsonl", texts)
        tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "in" / name, workers=1)
    return [tmp_path / "in" / name for name in ("b", "a", "c")]


def assert_same_bytes(one: Path, other: Path) -> None:
    for kind in KINDS:
        assert Path(f"{one}.{kind}").read_bytes() == Path(f"{other}.{kind}").read_bytes(), kind


def assert_same_manifest(one: Manifest | None, other: Manifest | None) -> None:
    """But for how much was compared between backends, which depends on how the work was cut."""
    assert one is not None
    assert other is not None
    assert replace(one, backends=()) == replace(other, backends=())
    assert [(b.name, b.documents) for b in one.backends] == [
        (b.name, b.documents) for b in other.backends
    ]


def test_it_equals_tokenizing_all_inputs_at_once(parts: list[Path], tmp_path: Path) -> None:
    inputs = [tmp_path / f"{part.name}.jsonl" for part in parts]
    at_once = tokenize(inputs, tokenizer=TINY, output_prefix=tmp_path / "all", workers=1)
    told: list[tuple[int, int]] = []
    merged = merge_shards(
        parts, output_prefix=tmp_path / "out" / "all", progress=lambda a, b: told.append((a, b))
    )
    assert_same_bytes(tmp_path / "all", tmp_path / "out" / "all")
    assert_same_manifest(merged.manifest, at_once)
    assert verify(tmp_path / "out" / "all") == merged.manifest
    assert told[-1] == 2 * (merged.files.bin_bytes,)
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [
        "all.bin",
        "all.idx",
        "all.json",
    ]


@given(corpora=corpora)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_documents_follow_each_other(tmp_path: Path, corpora: list[list[list[int]]]) -> None:
    prefixes = [tmp_path / str(n) for n in range(len(corpora))]
    for prefix, documents in zip(prefixes, corpora, strict=True):
        write_shard(prefix, documents=documents, vocab_size=60_001)
    merged = merge_shards(prefixes, output_prefix=tmp_path / "all")
    everything = [document for documents in corpora for document in documents]
    write_shard(tmp_path / "expected", documents=everything, vocab_size=60_001)
    assert_same_bytes(tmp_path / "all", tmp_path / "expected")
    assert merged.manifest is None
    assert (merged.files.documents, merged.files.tokens) == (
        len(everything),
        sum(map(len, everything)),
    )


def test_copying_in_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    write_shard(tmp_path / "a", documents=[[1] * 7, [2], [], [3], [4]], vocab_size=9)
    write_shard(tmp_path / "b", documents=[[5, 6]], vocab_size=9)
    merge_shards([tmp_path / "a", tmp_path / "b"], output_prefix=tmp_path / "all")
    shard = IndexedShard(tmp_path / "all")
    shard.check_index()
    assert shard.lengths.tolist() == [7, 1, 0, 1, 1, 2]
    assert shard.document(5).tolist() == [5, 6]


@pytest.mark.mcore
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_bytes_equal_megatron_s(tmp_path: Path, dtype: Any) -> None:
    """Documents of several sequences included, as Megatron writes them when it splits sentences."""
    import torch

    from megacpt.device.cpu import import_hook

    import_hook.install()
    oracle = importlib.import_module("megatron.core.datasets.indexed_dataset")
    rng = np.random.default_rng(4)
    prefixes = [tmp_path / name for name in ("x", "y", "z")]
    for prefix in prefixes:
        builder = oracle.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
        for _ in range(rng.integers(1, 5)):
            sizes = rng.integers(1, 6, size=rng.integers(1, 4)).tolist()
            builder.add_document(torch.tensor(rng.integers(0, 999, size=sum(sizes))), sizes)
        builder.finalize(f"{prefix}.idx")
    builder = oracle.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for prefix in prefixes:
        builder.add_index(str(prefix))
    builder.finalize(str(tmp_path / "theirs.idx"))
    merged = merge_shards(prefixes, output_prefix=tmp_path / "ours")
    assert_same_bytes(tmp_path / "ours", tmp_path / "theirs")
    assert merged.files.documents == IndexedShard(tmp_path / "ours").num_documents


def test_a_folder_s_shards_in_the_order_of_their_names(parts: list[Path]) -> None:
    (parts[0].parent / "notes.txt").write_text("not a shard")
    assert [prefix.name for prefix in shards_in(parts[0].parent)] == ["a", "b", "c"]


def test_a_dot_in_a_name_belongs_to_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "v1.2", documents=[[1]], vocab_size=9)
    assert shards_in(tmp_path) == [tmp_path / "v1.2"]


def test_half_a_shard_in_a_folder_is_named(parts: list[Path]) -> None:
    parts[1].with_suffix(".idx").unlink()
    with pytest.raises(DataError, match=r"in/a.idx is missing; restore it or move .*in/a\.\* away"):
        shards_in(parts[0].parent)


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no token shards"):
        shards_in(tmp_path)
    with pytest.raises(DataError, match=r"gone is not a folder"):
        shards_in(tmp_path / "gone")


def test_no_shards_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shards to merge; give their prefixes"):
        merge_shards([], output_prefix=tmp_path / "all")


def test_the_output_is_none_of_the_shards(parts: list[Path]) -> None:
    before = parts[0].with_suffix(".bin").read_bytes()
    with pytest.raises(DataError, match=r"in/b is one of the shards; choose another"):
        merge_shards(parts, output_prefix=parts[0])
    assert parts[0].with_suffix(".bin").read_bytes() == before


def test_a_json_file_that_is_no_manifest_is_kept(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text("{}")
    with pytest.raises(DataError, match=r"all.json cannot be read as a manifest"):
        merge_shards(parts, output_prefix=tmp_path / "all")
    assert (tmp_path / "all.json").read_text() == "{}"


def test_what_was_set_aside_is_kept(tmp_path: Path) -> None:
    prefixes, sources = [], []
    for n, lines in enumerate(
        (["{", '{"text": "a"}', "[]"], ['{"text": "b"}'], ["7", '{"text": ""}'])
    ):
        sources.append(tmp_path / f"{n}.jsonl")
        sources[-1].write_text("\n".join([*lines, '{"text": "end"}']))
        prefixes.append(tmp_path / str(n))
        policy = OnError.quarantine
        tokenize([sources[-1]], tokenizer=TINY, output_prefix=prefixes[-1], on_error=policy)
    at_once = tokenize(sources, tokenizer=TINY, output_prefix=tmp_path / "all", on_error=policy)
    merged = merge_shards(prefixes, output_prefix=tmp_path / "merged" / "all")
    assert_same_manifest(merged.manifest, at_once)
    assert at_once is not None
    assert sum(at_once.errors.values()) == 3
    one, other = (tmp_path / name / "all.quarantine.jsonl" for name in (".", "merged"))
    assert one.read_bytes() == other.read_bytes()


def test_a_manifest_of_something_else_does_not_stay(parts: list[Path], tmp_path: Path) -> None:
    write_shard(tmp_path / "bare", documents=[[1]], vocab_size=9)
    with pytest.raises(DataError, match=r"in/c\.json describes another shard"):
        merge_shards([tmp_path / "bare"], output_prefix=parts[2])


def test_types_must_agree(tmp_path: Path) -> None:
    write_shard(tmp_path / "small", documents=[[1]], vocab_size=9)
    write_shard(tmp_path / "large", documents=[[1]], vocab_size=100_000)
    with pytest.raises(DataError, match=r"large holds int32, but .*small uint16; tokenize one"):
        merge_shards([tmp_path / "small", tmp_path / "large"], output_prefix=tmp_path / "all")


def test_tokenizers_must_agree(parts: list[Path], tmp_path: Path) -> None:
    other = write_model_folder(tmp_path / "other")
    path = other / "tokenizer.json"
    nfc = '"normalizer":{"type":"NFC"}'
    path.write_text(path.read_text().replace('"normalizer":null', nfc))
    source = write_texts(tmp_path / "d.jsonl", ["five"])
    tokenize([source], tokenizer=other, output_prefix=tmp_path / "d", workers=1)
    with pytest.raises(DataError, match=r"/d was written with another tokenizer .* token shard"):
        merge_shards([*parts, tmp_path / "d"], output_prefix=tmp_path / "all")


def test_ends_of_documents_must_agree(parts: list[Path], tmp_path: Path) -> None:
    source = write_texts(tmp_path / "d.jsonl", ["five"])
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "d", append_eos=False, workers=1)
    with pytest.raises(DataError, match=r"/d was written with append_eos=False, but .*/b"):
        merge_shards([*parts, tmp_path / "d"], output_prefix=tmp_path / "all")


def test_keys_may_differ(parts: list[Path], tmp_path: Path) -> None:
    source = write_texts(tmp_path / "d.jsonl", ["five"], key="body")
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "d", key="body", workers=1)
    merged = merge_shards([*parts, tmp_path / "d"], output_prefix=tmp_path / "all")
    assert merged.manifest is not None
    assert merged.manifest.key == "text, body"


def test_a_shard_without_manifest_among_others_is_refused(parts: list[Path]) -> None:
    parts[1].with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"in/a has no manifest .*, but others have"):
        merge_shards(parts, output_prefix=parts[0].parent / "all")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_nothing_is_left(parts: list[Path], tmp_path: Path, kind: str) -> None:
    path = parts[1].with_suffix(f".{kind}")
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=rf"in/a\.json says: sha256 of .{kind}"):
        merge_shards(parts, output_prefix=tmp_path / "out" / "all")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_files_of_another_shard_are_found(parts: list[Path], tmp_path: Path) -> None:
    for kind in KINDS:
        shutil.copy(parts[1].with_suffix(f".{kind}"), parts[0].with_suffix(f".{kind}"))
    with pytest.raises(DataError, match=r"in/b\.json says: documents, tokens and type"):
        merge_shards(parts, output_prefix=tmp_path / "all")
    assert read_shard_manifest(tmp_path / "all") is None
