# SPDX-License-Identifier: Apache-2.0
"""PREFIX.pack<S>: rows of whole documents, and no file that is stale or damaged passes for good."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.cli import main
from megacpt.errors import DataError, EnvironmentError_
from megacpt.samples.batch import Row, make_batch
from megacpt.shards.format import HEADER, MAGIC
from megacpt.shards.packing import ARRAYS_AT, PackedShard, build_packing, pack, pack_path
from megacpt.shards.reader import IndexedShard, write_shard

VOCAB = 1000
S = 8
REMEDY = r"megacpt pack \S*shard --sequence-length 8$"


def write(prefix: Path, lengths: list[int], *, seed: int = 0) -> IndexedShard:
    rng = np.random.default_rng(seed)
    return write_shard(
        prefix, documents=[rng.integers(0, VOCAB, size=n) for n in lengths], vocab_size=VOCAB
    )


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A shard of 60 documents and its rows of 8 inputs."""
    lengths = np.random.default_rng(1).integers(0, 25, size=60).tolist()
    build_packing(write(tmp_path / "shard", lengths), sequence_length=S)
    return tmp_path / "shard"


def packed_path(prefix: Path) -> Path:
    return pack_path(prefix, sequence_length=S)


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_batches_hold_every_target_of_every_document_once(
    tmp_path: Path, lengths: list[int]
) -> None:
    """Tokens are their own numbers in the stream, so that a label says which target it is."""
    lengths.append(2)
    ends = np.cumsum([0, *lengths])
    texts = [np.arange(i, j) for i, j in pairwise(ends)]
    shard = write_shard(tmp_path / "shard", documents=texts, vocab_size=5000)
    build_packing(shard, sequence_length=S)
    packing = PackedShard.open(shard.prefix, sequence_length=S)
    rows = [
        Row(shard=shard, source_id=0, starts=starts, stops=stops)
        for starts, stops in map(packing.row, range(packing.num_rows))
    ]
    batch = make_batch(rows, sequence_length=S)
    seen = batch.loss_mask_BS == 1
    expected = np.setdiff1d(np.arange(shard.num_tokens), ends[:-1])
    np.testing.assert_array_equal(np.sort(batch.labels_BS[seen]), expected)
    np.testing.assert_array_equal(batch.tokens_BS[seen], batch.labels_BS[seen] - 1)
    assert packing.summary.inputs == expected.size


def test_the_summary_counts_what_the_file_holds(tmp_path: Path) -> None:
    write(tmp_path / "shard", [0, 1, 9, 10, 26, 3, 4])
    (summary,) = pack([tmp_path / "shard"], sequence_length=S)
    assert (summary.documents, summary.tokens) == (7, 53)
    assert (summary.left_out, summary.cut) == (2, 2)
    assert summary.inputs == 8 + 9 + 25 + 2 + 3
    assert summary.pieces == 1 + 2 + 4 + 1 + 1
    assert summary.rows == 6
    assert summary.fill_rate == pytest.approx(47 / 48)
    assert packed_path(tmp_path / "shard").stat().st_size == summary.file_bytes


def test_each_sequence_length_has_its_own_file(prefix: Path) -> None:
    pack([prefix], sequence_length=16)
    assert PackedShard.open(prefix, sequence_length=16).summary.sequence_length == 16
    assert PackedShard.open(prefix, sequence_length=S).summary.sequence_length == S


def test_documents_of_several_sequences_stay_whole(tmp_path: Path) -> None:
    """As Megatron writes them when it splits sentences: here a document of two, one of one."""
    prefix = tmp_path / "shard"
    write(prefix, [4, 2, 3])
    idx = Path(f"{prefix}.idx")
    header = HEADER.pack(MAGIC, 1, 8, 3, 3)
    sequences = idx.read_bytes()[HEADER.size : HEADER.size + 12 * 3]
    idx.write_bytes(header + sequences + np.array([0, 2, 3], dtype="<i8").tobytes())
    pack([prefix], sequence_length=S)
    packing = PackedShard.open(prefix, sequence_length=S)
    assert [part.tolist() for part in packing.row(0)] == [[0, 6], [6, 9]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "shard", [5])
    with pytest.raises(DataError, match=rf"shard\.pack8 does not exist.*run: {REMEDY}"):
        PackedShard.open(tmp_path / "shard", sequence_length=S)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    packed_path(tmp_path / "shard").mkdir()
    with pytest.raises(DataError, match=r"shard\.pack8 cannot be read: .*; check the file"):
        PackedShard.open(tmp_path / "shard", sequence_length=S)


def test_a_shard_written_anew_is_noticed(prefix: Path) -> None:
    lengths = np.random.default_rng(1).integers(0, 25, size=60).tolist()
    write(prefix, lengths, seed=3)
    with pytest.raises(DataError, match=f"packed from another shard; make it again: {REMEDY}"):
        PackedShard.open(prefix, sequence_length=S)
    pack([prefix], sequence_length=S)
    assert PackedShard.open(prefix, sequence_length=S).num_rows > 0


def test_a_file_of_another_length_is_noticed(prefix: Path) -> None:
    pack([prefix], sequence_length=16)
    pack_path(prefix, sequence_length=16).rename(packed_path(prefix))
    with pytest.raises(DataError, match=f"packs rows of 16; make it again: {REMEDY}"):
        PackedShard.open(prefix, sequence_length=S)


@pytest.mark.parametrize("size", [0, 7, ARRAYS_AT - 1, ARRAYS_AT, -1])
def test_a_file_cut_short_is_noticed(prefix: Path, size: int) -> None:
    path = packed_path(prefix)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"shard\.pack8 .*; make it again: {REMEDY}"):
        PackedShard.open(prefix, sequence_length=S)


def test_a_changed_row_is_noticed_when_it_is_read(prefix: Path) -> None:
    path = packed_path(prefix)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    packing = PackedShard.open(prefix, sequence_length=S)
    with pytest.raises(DataError, match=f"is damaged: a row is not what was.*{REMEDY}"):
        packing.row(packing.num_rows - 1)


def test_the_file_has_its_name_when_it_is_whole(prefix: Path) -> None:
    assert [p.name for p in sorted(prefix.parent.iterdir())] == [
        "shard.bin",
        "shard.idx",
        "shard.pack8",
    ]


def test_a_folder_that_cannot_be_written_is_named(prefix: Path) -> None:
    """A folder in the place of the file aside: as root, permissions refuse nothing."""
    before = packed_path(prefix).read_bytes()
    Path(f"{packed_path(prefix)}.partial").mkdir()
    with pytest.raises(EnvironmentError_, match=r"shard\.pack8 cannot be written: "):
        pack([prefix], sequence_length=S)
    assert packed_path(prefix).read_bytes() == before


@pytest.mark.parametrize("lengths", [[], [0, 1, 1]])
def test_a_shard_without_targets_is_named(tmp_path: Path, lengths: list[int]) -> None:
    write(tmp_path / "shard", lengths)
    with pytest.raises(DataError, match=r"shard has no document of two tokens or more"):
        pack([tmp_path / "shard"], sequence_length=S)


@pytest.mark.parametrize("length", [0, -5, 2**24 + 1])
def test_a_length_out_of_range_is_named(prefix: Path, length: int) -> None:
    with pytest.raises(DataError, match=re.escape(f"sequence length {length} is not in 1..")):
        pack([prefix], sequence_length=length)


def test_the_verb_says_what_it_wrote_and_what_comes_next(
    prefix: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prefix.parent)
    assert main(["pack", "shard", "--sequence-length", "16"]) == 0
    shown = capsys.readouterr().out
    assert "Wrote shard.pack16" in shown
    assert "60 documents" in shown
    assert shown.splitlines()[-1] == (
        "Next: megacpt plan data.sources.shard.prefix=shard "
        "data.packing=best_fit data.sequence_length=16"
    )
