# SPDX-License-Identifier: Apache-2.0
"""A held-out set predicts each token of the start of its shard once, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.errors import DataError
from megacpt.samples.heldout import HeldoutSet
from megacpt.shards.manifest import Manifest, manifest_json
from megacpt.shards.reader import write_shard


@given(tokens=st.integers(2, 80), length=st.integers(1, 20), most=st.integers(0, 100))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_target_once(tmp_path: Path, tokens: int, length: int, most: int) -> None:
    write_shard(tmp_path / "a", documents=[np.arange(tokens)], vocab_size=99)
    heldout = HeldoutSet.open(tmp_path / "a", sequence_length=length, max_tokens=most)
    batch = heldout.load(range(heldout.num_samples))
    counts = batch.loss_mask_BS > 0
    expected = min(tokens - 1, most or tokens)
    assert heldout.num_tokens == expected
    assert batch.labels_BS[counts].tolist() == list(range(1, expected + 1))
    assert batch.tokens_BS[counts].tolist() == list(range(expected))
    assert batch.tokens_BS.shape == (-(-expected // length), length)
    assert not batch.source_ids_B.any()


def test_a_set_without_a_target_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", documents=[[1]], vocab_size=9)
    with pytest.raises(DataError, match=r"a.bin has 1 tokens, but a sample needs at least 2"):
        HeldoutSet.open(tmp_path / "a", sequence_length=4, max_tokens=0)


def test_an_id_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", documents=[[1, 8]], vocab_size=9)
    heldout = HeldoutSet.open(tmp_path / "a", sequence_length=4, max_tokens=0, vocab_size=8)
    with pytest.raises(DataError, match=r"holds id 8 at token 1"):
        heldout.load([0])


def test_documents_are_bounded_where_the_run_masks_them(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "set", documents=[np.array([5, 6, 0]), np.array([7, 8, 9, 0])], vocab_size=10
    )
    sizes = {"sequence_length": 4, "max_tokens": 0}
    masked = HeldoutSet.open(tmp_path / "set", **sizes, document_mask=True).load([0, 1])
    plain = HeldoutSet.open(tmp_path / "set", **sizes).load([0, 1])
    assert [bounds.tolist() for bounds in masked.cu_seqlens] == [[0, 3, 4], [0, 2, 4]]
    assert [bounds.tolist() for bounds in plain.cu_seqlens] == [[0, 4], [0, 4]]
    assert masked.positions_BS.tolist() == [[0, 1, 2, 0], [0, 1, 0, 1]]
    assert (masked.labels_BS == plain.labels_BS).all()


def write_chats(folder: Path) -> tuple[list[int], np.ndarray]:
    """Conversations of 4, 3, 9 and 2 tokens; the last half of each is the reply."""
    sizes = [4, 3, 9, 2]
    numbers = np.arange(sum(sizes))
    shard = write_shard(
        folder / "chat", documents=np.split(numbers, np.cumsum(sizes)[:-1]), vocab_size=99
    )
    mask_T = np.concatenate([np.arange(n) >= n // 2 for n in sizes]).astype(np.uint8)
    (folder / "chat.mask").write_bytes(mask_T.tobytes())
    manifest = Manifest(
        name="chat",
        tokenizer_fingerprint="f",
        vocab_size=99,
        eos_id=None,
        append_eos=False,
        key="messages",
        documents=4,
        empty_documents=0,
        tokens=shard.num_tokens,
        dtype=shard.dtype.name,
        bin_bytes=0,
        idx_bytes=0,
        bin_sha256="",
        idx_sha256="",
        inputs=(),
        mask_sha256="m",
        chat_template="t",
    )
    (folder / "chat.json").write_text(manifest_json(manifest))
    return sizes, mask_T


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("length", [2, 5, 8, 40])
def test_each_reply_of_conversations_once(tmp_path: Path, length: int, shared: bool) -> None:
    sizes, mask_T = write_chats(tmp_path)
    heldout = HeldoutSet.open(
        tmp_path / "chat", sequence_length=length, max_tokens=0, document_mask=shared
    )
    batch = heldout.load(range(heldout.num_samples))
    firsts = np.cumsum([0, *sizes[:-1]])
    expected = [n for n in np.flatnonzero(mask_T) if n not in firsts]
    assert batch.labels_BS[batch.loss_mask_BS > 0].tolist() == expected
    assert heldout.num_tokens == len(expected)


def test_conversations_that_fit_a_sample_are_whole(tmp_path: Path) -> None:
    write_chats(tmp_path)
    prefix, sizes = tmp_path / "chat", {"sequence_length": 8, "max_tokens": 0}
    shared = HeldoutSet.open(prefix, document_mask=True, **sizes)
    assert shared.rows == [[(0, 4), (4, 7)], [(7, 16)], [(16, 18)]]
    alone = HeldoutSet.open(prefix, **sizes)
    assert alone.rows == [[(0, 4)], [(4, 7)], [(7, 16)], [(16, 18)]]
    few = HeldoutSet.open(prefix, sequence_length=8, max_tokens=3, document_mask=True)
    assert few.rows == [[(0, 4), (4, 7)]]
    assert few.num_tokens == 4
