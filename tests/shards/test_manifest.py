# SPDX-License-Identifier: Apache-2.0
"""A manifest says what a shard is, and whoever differs from it is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.errors import DataError
from megacpt.monitor.dataset_text import shard_text
from megacpt.shards import manifest
from megacpt.shards.inspect import inspect_shard
from megacpt.shards.merge import merge_shards
from megacpt.shards.reader import IndexedShard, write_shard
from megacpt.shards.tokenize import merge, tokenize
from megacpt.tokenizer import load_tokenizer
from tests.corpus.curated import decontaminated, step, write_curated

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "first"}\n{"text": "second"}\n')
    tokenize([source], tokenizer=TINY, output_prefix=tmp_path / "a", workers=1)
    return tmp_path / "a"


def change(prefix: Path, **values: Any) -> None:
    path = manifest.manifest_path(prefix)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_it_is_read_as_it_was_written(prefix: Path) -> None:
    found = manifest.verify(prefix)
    assert found == manifest.read_shard_manifest(prefix)
    assert manifest.manifest_json(found) == manifest.manifest_path(prefix).read_text()
    assert (found.documents, found.tokens, found.vocab_size, found.eos_id) == (2, 13, 257, 256)


def test_keys_of_a_newer_megacpt_are_no_obstacle(prefix: Path) -> None:
    expected = manifest.read_shard_manifest(prefix)
    change(prefix, packing="concat")
    assert manifest.read_shard_manifest(prefix) == expected


def test_another_version_is_refused(prefix: Path) -> None:
    change(prefix, version=2)
    with pytest.raises(DataError, match=r"a.json has version 2, this megacpt reads 1; use the"):
        manifest.read_shard_manifest(prefix)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 1}', '{"version":1,"n":0}'])
def test_a_broken_manifest_is_named(prefix: Path, content: str) -> None:
    manifest.manifest_path(prefix).write_text(content)
    with pytest.raises(DataError, match=r"a.json cannot be read as a manifest"):
        manifest.read_shard_manifest(prefix)


UNRELATED = {
    "a document": ('{"text": "a law", "id": 7}', r"none of its keys \(those there: 'text', 'id'\)"),
    "an array": ('[{"text": "a"}]', "JSON of type list, not an object"),
    "a number": ("7", "type int, not an object"),
    "another version": ('{"version": "1.0", "model": {}}', "those there: 'version', 'model'"),
    "JSON lines": ('{"text": "a"}\n{"text": "b"}\n', "Extra data: line 2"),
    "no JSON": ("PK\x03\x04", "JSONDecodeError"),
    "many keys": (json.dumps(dict.fromkeys("abcdefgh", 0)), "'a', 'b', 'c', 'd', 'e'"),
}


@pytest.mark.parametrize("name", UNRELATED)
def test_a_file_of_another_tool_beside_a_shard_is_named(tmp_path: Path, name: str) -> None:
    content, words = UNRELATED[name]
    write_shard(tmp_path / "law", documents=[[1, 2]], vocab_size=9)
    (tmp_path / "law.json").write_text(content)
    with pytest.raises(
        DataError, match=rf"law.json cannot be read as a manifest.*{words}"
    ) as found:
        inspect_shard(tmp_path / "law")
    assert "another tool" in str(found.value)
    assert "move" in str(found.value)


def test_a_corpus_beside_a_shard_is_not_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "law", documents=[[1, 2]], vocab_size=9)
    with (tmp_path / "law.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match=r"it holds more than 268,435,456 bytes\. A shard of"):
        inspect_shard(tmp_path / "law")


def test_a_shard_without_one_cannot_be_verified(tmp_path: Path) -> None:
    write_shard(tmp_path / "b", documents=[[1]], vocab_size=9)
    assert manifest.read_shard_manifest(tmp_path / "b") is None
    with pytest.raises(DataError, match=r"b.json does not exist: nothing to verify"):
        manifest.verify(tmp_path / "b")


@pytest.mark.parametrize("kind", ["bin", "idx"])
def test_changed_bytes_are_found(prefix: Path, kind: str) -> None:
    path = Path(f"{prefix}.{kind}")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=rf"is not what .*a.json says: sha256 of .{kind} should be"):
        manifest.verify(prefix)


def test_another_tokenizer_is_named_with_both_sides(prefix: Path) -> None:
    own = manifest.verify(prefix).tokenizer_fingerprint
    manifest.require_tokenizer(prefix, fingerprint=own, owner="model")
    with pytest.raises(DataError, match=rf"\({own[:12]}\) than that of model \(abc\)"):
        manifest.require_tokenizer(prefix, fingerprint="abc", owner="model")


def test_shards_must_share_a_tokenizer(prefix: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "foreign", documents=[[1]], vocab_size=9)
    prefixes = [tmp_path / "foreign", prefix, prefix]
    manifest.require_one_tokenizer(prefixes)
    for kind in ("bin", "idx", "json"):
        (tmp_path / f"other.{kind}").write_bytes(Path(f"{prefix}.{kind}").read_bytes())
    change(tmp_path / "other", tokenizer_fingerprint="other")
    with pytest.raises(DataError, match=r"shard .*other was written .* of token shard .*a \("):
        manifest.require_one_tokenizer([*prefixes, tmp_path / "other"])


def resaved(folder: Path, *, how: str) -> Path:
    """The same tokenizer as other programs write it."""
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text((TINY / "tokenizer_config.json").read_text())
    content = json.loads((TINY / "tokenizer.json").read_text())
    if how == "keys":
        content = dict(reversed(content.items()))
    if how == "merges":  # none here: a list of texts is what tokenizers 0.19 writes
        content["model"] = {"merges": []} | dict(reversed(content["model"].items()))
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=how == "indent" or None))
    return folder


@pytest.mark.parametrize("how", ["indent", "keys", "merges"])
def test_a_tokenizer_saved_again_is_the_same(prefix: Path, how: str, tmp_path: Path) -> None:
    folder = resaved(tmp_path / "again", how=how)
    other = load_tokenizer(folder)
    assert other.fingerprint != load_tokenizer(TINY).fingerprint
    manifest.require_own(prefix, tokenizer=other)
    tokenize([tmp_path / "a.jsonl"], tokenizer=folder, output_prefix=tmp_path / "b", workers=1)
    assert (tmp_path / "b.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()
    merged = merge_shards([prefix, tmp_path / "b"], output_prefix=tmp_path / "all").manifest
    assert merged is not None
    assert merged.identity == other.identity


def test_a_manifest_of_before_names_the_bytes_of_the_file(prefix: Path, tmp_path: Path) -> None:
    older = json.loads(manifest.manifest_path(prefix).read_text())
    del older["tokenizer_identity"]
    manifest.manifest_path(prefix).write_text(json.dumps(older))
    tokenizer = load_tokenizer(TINY)
    assert older["tokenizer_fingerprint"] == tokenizer.file_fingerprint
    manifest.require_own(prefix, tokenizer=tokenizer)
    tokenize([tmp_path / "a.jsonl"], tokenizer=TINY, output_prefix=tmp_path / "b", workers=1)
    merged = merge_shards([prefix, tmp_path / "b"], output_prefix=tmp_path / "all").manifest
    assert merged is not None
    assert merged.identity == tokenizer.identity
    # Whether other bytes are of the same tokenizer cannot be known of it.
    with pytest.raises(DataError, match="was written with another tokenizer"):
        manifest.require_own(
            prefix, tokenizer=load_tokenizer(resaved(tmp_path / "again", how="indent"))
        )


def test_an_identity_counts_with_its_own_fingerprint_alone(prefix: Path) -> None:
    change(prefix, tokenizer_fingerprint="other")
    with pytest.raises(DataError, match="was written with another tokenizer"):
        manifest.require_own(prefix, tokenizer=load_tokenizer(TINY))


def test_identity_follows_the_content(prefix: Path, tmp_path: Path) -> None:
    """With a manifest by its checksums, without one by samples of the tokens."""
    described = manifest.shard_identity(IndexedShard(prefix))
    assert manifest.verify(prefix).bin_sha256 in described
    seen = set()
    for last in (1, 2):
        write_shard(tmp_path / "plain", documents=[[5, 6, last]], vocab_size=9)
        seen.add(manifest.shard_identity(IndexedShard(tmp_path / "plain")))
    write_shard(tmp_path / "plain", documents=[[5], [6, 2]], vocab_size=9)
    seen.add(manifest.shard_identity(IndexedShard(tmp_path / "plain")))
    assert len(seen) == 3


def test_a_manifest_of_other_files_is_named(prefix: Path) -> None:
    change(prefix, tokens=14)
    with pytest.raises(DataError, match=r"should be \(2, 14, 'uint16'\), but is \(2, 13"):
        manifest.shard_identity(IndexedShard(prefix))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(data=st.data(), value=json_values)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_key_holds_is_read_or_refused(
    prefix: Path, data: st.DataObject, value: object
) -> None:
    """What is read can be used: inspected, verified, merged; else DataError says what is wrong."""
    path = manifest.manifest_path(prefix)
    whole = path.read_text()
    content: Any = json.loads(whole)
    at = content
    for _ in range(data.draw(st.integers(0, 2))):
        keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else []
        if not keys:
            break
        key = data.draw(st.sampled_from(list(keys)))
        holder, at = at, at[key]
    if at is content:
        content = value
    else:
        holder[key] = value
    path.write_text(json.dumps(content))
    try:
        shard_text(inspect_shard(prefix))
        manifest.verify(prefix)
        merge_shards([prefix, prefix], output_prefix=prefix.parent / "merged")
    except DataError:
        pass
    finally:
        path.write_text(whole)


@given(kind=st.sampled_from(["bin", "idx", "json"]), data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_byte_is_never_merged(prefix: Path, kind: str, data: st.DataObject) -> None:
    path = Path(f"{prefix}.{kind}")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    before = [Path(f"{prefix}.{part}").read_bytes() for part in ("bin", "idx")]
    path.write_bytes(whole[:at] + bytes([new]) + whole[at + 1 :])
    merged = prefix.parent / "merged"
    try:
        with suppress(DataError):
            shard_text(inspect_shard(prefix))
        merge_shards([prefix], output_prefix=merged)
        after = [Path(f"{merged}.{part}").read_bytes() for part in ("bin", "idx")]
        assert (kind, after) == ("json", before)
    except DataError:
        pass
    finally:
        path.write_bytes(whole)


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    """A shard of curated text."""
    write_curated(tmp_path / "out", [step("deduplicate", "law"), decontaminated("law")])
    tokenize([tmp_path / "out"], tokenizer=TINY, output_prefix=tmp_path / "law", workers=1)
    return tmp_path / "law"


def test_a_shard_says_how_its_text_was_curated(curated: Path, prefix: Path) -> None:
    found = manifest.verify(curated)
    assert found == manifest.read_shard_manifest(curated)
    (origin,) = found.curated
    account = json.loads((curated.parent / "out" / "curation.json").read_text())
    assert origin.fingerprint == account["fingerprint"]
    assert [step.name for step in origin.steps] == ["deduplicate", "decontaminate"]
    assert origin.steps[1].suites == {"mmlu": "ab" * 16}
    shown = "Curated       law: deduplicated, decontaminated, decontaminated:mmlu (--history)"
    assert shown in shard_text(inspect_shard(curated))
    plain = manifest.verify(prefix)
    assert (plain.curated, plain.chain) == ((), "")


def test_tasks_and_whoever_joins_their_pieces(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their work folder says where the files came from, whatever folder they were started in."""
    monkeypatch.chdir(tmp_path)
    for n in range(2):
        tokenize(["out"], tokenizer=TINY, output_prefix=tmp_path / "shared", workers=1, task=(n, 2))
    monkeypatch.chdir("/")
    joined = merge(tmp_path / "shared")
    assert joined.curated == manifest.verify(curated).curated
    assert manifest.verify(tmp_path / "shared") == joined


def edited(content: dict[str, Any]) -> None:
    content["curated"][0]["steps"][0]["settings"]["threshold"] = 0.7


def without_chain(content: dict[str, Any]) -> None:
    del content["chain"]


def without_record(content: dict[str, Any]) -> None:
    content["curated"] = []


def other_inputs(content: dict[str, Any]) -> None:
    content["inputs"][0]["sha256"] = "ef" * 32


def other_tokens(content: dict[str, Any]) -> None:
    content["bin_sha256"] = "ef" * 32


@pytest.mark.parametrize(
    "change", [edited, without_chain, without_record, other_inputs, other_tokens]
)
def test_a_chain_of_other_files_is_refused(curated: Path, change: Callable[..., None]) -> None:
    path = manifest.manifest_path(curated)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"law.json says how its text was curated, but not of thes"):
        manifest.read_shard_manifest(curated)


def test_a_record_cannot_be_put_beside_another_shard(curated: Path, prefix: Path) -> None:
    """Neither as the manifest of it, nor into its own."""
    theirs = json.loads(manifest.manifest_path(curated).read_text())
    change(prefix, curated=theirs["curated"], chain=theirs["chain"])
    with pytest.raises(DataError, match="but not of these files"):
        manifest.read_shard_manifest(prefix)
    manifest.manifest_path(prefix).write_text(json.dumps(theirs))
    with pytest.raises(DataError, match="is not what"):
        inspect_shard(prefix)


@pytest.mark.parametrize("longer", [True, False])
def test_curated_text_that_was_changed_is_no_shard(tmp_path: Path, longer: bool) -> None:
    write_curated(tmp_path / "out", [step("deduplicate", "law")])
    path = tmp_path / "out" / "law" / "00000.jsonl"
    path.write_text(path.read_text().replace("land", "lands" if longer else "sand"))
    with pytest.raises(DataError, match=r"00000.jsonl is not as .*curation.json says; restore it"):
        tokenize([path], tokenizer=TINY, output_prefix=tmp_path / "law", workers=1)
    assert not list(tmp_path.glob("law.*[nx]"))


def test_merged_shards_keep_what_all_have(curated: Path, prefix: Path, tmp_path: Path) -> None:
    write_curated(tmp_path / "b", [step("filter", "law")], texts={"law": ["b"]})
    tokenize([tmp_path / "b"], tokenizer=TINY, output_prefix=tmp_path / "web", workers=1)
    both = [tmp_path / "out" / "law", tmp_path / "b" / "law"]
    at_once = tokenize(both, tokenizer=TINY, output_prefix=tmp_path / "once", workers=1)
    merge_shards([curated, tmp_path / "web"], output_prefix=tmp_path / "both")
    found = manifest.verify(tmp_path / "both")
    assert at_once is not None
    assert (found.curated, found.chain) == (at_once.curated, at_once.chain)
    assert [[s.name for s in o.steps] for o in found.curated] == [
        ["deduplicate", "decontaminate"],
        ["filter"],
    ]
    merge_shards([curated, prefix], output_prefix=tmp_path / "mixed")
    assert manifest.verify(tmp_path / "mixed").curated == ()
