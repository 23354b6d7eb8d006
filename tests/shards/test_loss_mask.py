# SPDX-License-Identifier: Apache-2.0
"""PREFIX.mask beside a shard: read, verified, and gone with the shard it belonged to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megacpt.errors import DataError
from megacpt.shards.chat import tokenize_chat
from megacpt.shards.chat.template import choose_template
from megacpt.shards.loss_mask import mask_path, open_mask
from megacpt.shards.manifest import Manifest, shard_identity, verify
from megacpt.shards.merge import merge_shards
from megacpt.shards.reader import IndexedShard
from megacpt.shards.tokenize import tokenize
from megacpt.tokenizer import load_tokenizer
from tests.shards.chat.templates import write_tokenizer


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    write(tmp_path, name="chat", reply="hello")
    return tmp_path / "chat"


def write(folder: Path, *, name: str, reply: str, template: str = "chatml") -> Manifest:
    tokenizer = load_tokenizer(write_tokenizer(folder / "model"))
    line = json.dumps({"prompt": "the fox", "completion": reply})
    (folder / f"{name}.jsonl").write_text(f"{line}\n" * 3)
    return tokenize_chat(
        [folder / f"{name}.jsonl"],
        tokenizer=tokenizer,
        output_prefix=folder / name,
        template=choose_template(template, tokenizer=tokenizer),
    )


def test_a_byte_for_each_token(prefix: Path) -> None:
    manifest = verify(prefix)
    mask_T = open_mask(prefix, manifest=manifest)
    shard = IndexedShard(prefix)
    assert mask_T is not None
    assert mask_T.size == shard.num_tokens == manifest.tokens
    tokenizer = load_tokenizer(prefix.with_name("model"))
    replies = tokenizer.decode(shard.span(0, stop=shard.num_tokens)[mask_T == 1])
    assert replies == "hello<|im_end|>\n" * 3


@pytest.mark.mcore
def test_megatron_reads_the_shard(prefix: Path) -> None:
    from megacpt.device.cpu import import_hook

    import_hook.install()
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    theirs, shard = IndexedDataset(str(prefix)), IndexedShard(prefix)
    assert len(theirs) == shard.num_documents == 3
    np.testing.assert_array_equal(theirs[1], shard.document(1))


def test_a_changed_mask_is_another_shard(prefix: Path) -> None:
    before = shard_identity(IndexedShard(prefix))
    path = mask_path(prefix)
    path.write_bytes(bytes([1]) * path.stat().st_size)
    with pytest.raises(DataError, match=r"sha256 of \.mask should be"):
        verify(prefix)
    manifest = json.loads(Path(f"{prefix}.json").read_text())
    Path(f"{prefix}.json").write_text(json.dumps(manifest | {"mask_sha256": "0" * 64}))
    assert shard_identity(IndexedShard(prefix)) != before


def test_a_missing_or_short_mask_is_named(prefix: Path) -> None:
    manifest = verify(prefix)
    mask_path(prefix).write_bytes(b"\1")
    with pytest.raises(DataError, match=r"chat.mask has 1 bytes, but the shard has \d+ tokens"):
        open_mask(prefix, manifest=manifest)
    mask_path(prefix).unlink()
    with pytest.raises(DataError, match=r"chat.mask cannot be read \(No such file.*restore it"):
        open_mask(prefix, manifest=manifest)


def test_text_written_over_conversations_is_learned_whole(prefix: Path) -> None:
    texts = prefix.with_name("texts.jsonl")
    texts.write_text('{"text": "the fox"}\n')
    tokenizer = load_tokenizer(prefix.with_name("model"))
    manifest = tokenize([texts], tokenizer=tokenizer, output_prefix=prefix, workers=1)
    assert not mask_path(prefix).exists()
    assert open_mask(prefix, manifest=manifest) is None


def test_merged_shards_keep_their_masks(prefix: Path, tmp_path: Path) -> None:
    write(tmp_path, name="more", reply="four")
    merge_shards([prefix, tmp_path / "more"], output_prefix=tmp_path / "both")
    parts = [mask_path(p).read_bytes() for p in (prefix, tmp_path / "more")]
    assert mask_path(tmp_path / "both").read_bytes() == b"".join(parts)
    assert verify(tmp_path / "both").chat_template == verify(prefix).chat_template


def test_a_changed_mask_is_not_merged(prefix: Path, tmp_path: Path) -> None:
    write(tmp_path, name="more", reply="four")
    path = mask_path(tmp_path / "more")
    path.write_bytes(bytes([1]) * path.stat().st_size)
    with pytest.raises(DataError, match=r"more is not what .*sha256 of \.mask should be"):
        merge_shards([prefix, tmp_path / "more"], output_prefix=tmp_path / "both")
    assert not list(tmp_path.glob("both*"))


def test_shards_that_differ_in_masks_or_template_are_not_merged(
    prefix: Path, tmp_path: Path
) -> None:
    write(tmp_path, name="plain", reply="four", template="plain")
    with pytest.raises(DataError, match="plain was written with another chat template"):
        merge_shards([prefix, tmp_path / "plain"], output_prefix=tmp_path / "both")
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "the fox"}\n')
    tokenize(
        [texts],
        tokenizer=load_tokenizer(tmp_path / "model"),
        output_prefix=tmp_path / "text",
        workers=1,
    )
    for both in ([prefix, tmp_path / "text"], [tmp_path / "text", prefix]):
        with pytest.raises(DataError, match=r"text is text, but .*chat holds conversations"):
            merge_shards(both, output_prefix=tmp_path / "both")
