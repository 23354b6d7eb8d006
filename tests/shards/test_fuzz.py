# SPDX-License-Identifier: Apache-2.0
"""Damaged files: an error that says so, or the very tokens of the undamaged shard; never a crash.

What the index cannot show, only the checksums of ``manifest.verify`` can: another id within the
vocabulary, and document bounds that are still in order (they move no token, only where documents
begin). Everything else is noticed by whatever it would have misled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from megacpt.config.sections import DataConfig, Packing, SampleOrder, SourceConfig
from megacpt.errors import DataError, MegacptError
from megacpt.samples.batch import Batch
from megacpt.samples.heldout import HeldoutSet
from megacpt.samples.training_data import TrainingData
from megacpt.shards.format import TYPE_CODES
from megacpt.shards.manifest import (
    Manifest,
    manifest_json,
    read_shard_manifest,
    require_tokenizer,
    verify,
)
from megacpt.shards.packing import PackedShard, pack
from megacpt.shards.reader import IndexedShard, ShardWriter
from megacpt.shards.writer import ShardFiles

VOCAB, S, STEPS, BATCH = 300, 8, 9, 4
KINDS = ("idx", "bin", "json", f"pack{S}")
Arrays = list[npt.NDArray[Any]]
Read = Callable[[Path], Arrays]


def training(prefix: Path, **changed: Any) -> Iterator[Batch]:
    config = DataConfig(
        sources={"s": SourceConfig(prefix=str(prefix))},
        sequence_length=S,
        global_batch_size=BATCH,
        **changed,
    )
    data = TrainingData.open(config, seed=1, shards={"s": prefix}, vocab_size=VOCAB, steps=STEPS)
    for step in range(STEPS):
        yield data.load(step, positions=range(BATCH))


def tokens_of(batches: Iterator[Batch]) -> Arrays:
    return [a for b in batches for a in (b.tokens_BS, b.labels_BS, b.loss_mask_BS)]


def concat(prefix: Path) -> Arrays:
    return tokens_of(training(prefix))


def best_fit(prefix: Path) -> Arrays:
    return tokens_of(training(prefix, packing=Packing.best_fit))


def megatron(prefix: Path) -> Arrays:
    return tokens_of(training(prefix, order=SampleOrder.megatron))


def masked(prefix: Path) -> Arrays:
    """Without what the mask is made of: that is ``bounds``."""
    return tokens_of(training(prefix, document_mask=True))


def heldout(prefix: Path) -> Arrays:
    found = HeldoutSet.open(prefix, sequence_length=S, max_tokens=0, vocab_size=VOCAB)
    return tokens_of(iter([found.load(range(found.num_samples))]))


def stream(prefix: Path) -> Arrays:
    shard = IndexedShard(prefix, vocab_size=VOCAB)
    return [shard.ids(0, stop=shard.num_tokens)]


def manifest(prefix: Path) -> Arrays:
    verify(prefix)
    return []


def bounds(prefix: Path) -> Arrays:
    return [
        c for b in training(prefix, document_mask=True) for c in (*b.cu_seqlens, b.positions_BS)
    ]


def documents(prefix: Path) -> Arrays:
    shard = IndexedShard(prefix, vocab_size=VOCAB)
    shard.check_index()
    return [shard.lengths, *(shard.document(n) for n in range(shard.num_documents))]


def packed_anew(prefix: Path) -> Arrays:
    pack([prefix], sequence_length=S)
    return best_fit(prefix)


def packed_rows(prefix: Path) -> Arrays:
    found = PackedShard.open(prefix, sequence_length=S)
    return [part for k in range(found.num_rows) for part in found.row(k)]


TOKENS: dict[str, Read] = {
    f.__name__: f for f in (concat, best_fit, megatron, masked, heldout, stream, manifest)
}
"""Never other tokens, whatever happens to the index."""
BOUNDS: dict[str, Read] = {f.__name__: f for f in (bounds, documents, packed_anew)}
"""What follows the document bounds of the index."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An undamaged shard, and what every reader makes of it."""

    prefix: Path
    expected: dict[str, Arrays] = field(repr=False)

    def path(self, kind: str) -> Path:
        return Path(f"{self.prefix}.{kind}")


def write_sample(prefix: Path, *, code: int, last_is_empty: bool) -> Sample:
    rng = np.random.default_rng(code)
    lengths = np.append(rng.choice([0, 1, 2, 3, 9, 20], size=30), 0 if last_is_empty else 4)

    def describe(files: ShardFiles) -> str:
        return manifest_json(manifest_of(files, dtype=TYPE_CODES[code].name))

    with ShardWriter(prefix, dtype=TYPE_CODES[code]) as writer:
        for length in lengths:
            writer.add(rng.integers(0, VOCAB, size=int(length)))
        writer.publish(describe=describe)
    pack([prefix], sequence_length=S)
    return Sample(prefix, {name: read(prefix) for name, read in (TOKENS | BOUNDS).items()})


def manifest_of(files: ShardFiles, *, dtype: str) -> Manifest:
    return Manifest(
        name="shard",
        tokenizer_fingerprint=hashlib.sha256(b"tokenizer").hexdigest(),
        vocab_size=VOCAB,
        eos_id=0,
        append_eos=True,
        key="text",
        documents=files.documents,
        empty_documents=0,
        tokens=files.tokens,
        dtype=dtype,
        bin_bytes=files.bin_bytes,
        idx_bytes=files.idx_bytes,
        bin_sha256=files.bin_sha256,
        idx_sha256=files.idx_sha256,
        inputs=(),
    )


@pytest.fixture(scope="module", params=[(8, False), (8, True), (4, False), (5, True)], ids=str)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    code, last_is_empty = request.param
    folder = tmp_path_factory.mktemp("fuzz")
    return write_sample(folder / "shard", code=code, last_is_empty=last_is_empty)


def differs(read: Read, prefix: Path, expected: Arrays) -> bool:
    """Whether a reader gives something else without a word."""
    try:
        found = read(prefix)
    except DataError:
        return False
    pairs = zip(found, expected, strict=False)
    return len(found) != len(expected) or not all(np.array_equal(a, b) for a, b in pairs)


def is_verified(prefix: Path) -> bool:
    with suppress(DataError):
        verify(prefix)
        return True
    return False


def check(sample: Sample, damaged: dict[str, bytes | None], *, folder: Path) -> None:
    """No reader of the damaged copy may give anything else than what the sample holds."""
    prefix = folder / "shard"
    for kind in KINDS:
        content = damaged.get(kind, sample.path(kind).read_bytes())
        Path(f"{prefix}.{kind}").unlink(missing_ok=True)
        if content is not None:
            Path(f"{prefix}.{kind}").write_bytes(content)
    if {"bin", "idx"} & damaged.keys():
        assert not is_verified(prefix)
    for name, read in TOKENS.items():
        ids_of_the_vocabulary = "bin" in damaged and len(damaged["bin"] or b"") > 0
        assert not differs(read, prefix, sample.expected[name]) or ids_of_the_vocabulary, name
    for name, read in BOUNDS.items():
        assert not differs(read, prefix, sample.expected[name]) or not is_verified(prefix), name


numbers = st.sampled_from([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes | None:
    """Another content, or none at all."""
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    ways = ["flip", "number", "cut", "grow", "splice", "zeros", "copy", "gone"]
    match draw(st.sampled_from(ways)):
        case "flip":
            changed = bytearray(content)
            for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
                changed[place] ^= 1 << draw(st.integers(0, 7))
            return bytes(changed)
        case "number":
            size = draw(st.sampled_from([1, 4, 8]))
            number = (draw(numbers) % 2 ** (8 * size)).to_bytes(size, "little")
            return (content[:at] + number + content[at + size :])[: len(content)]
        case "cut":
            return content[:at]
        case "grow":
            return content + draw(st.binary(min_size=1, max_size=40))
        case "splice":
            stop = draw(st.integers(at, min(at + 40, len(content))))
            return content[:at] + draw(st.binary(max_size=40)) + content[stop:]
        case "zeros":
            stop = min(at + draw(st.integers(1, 100)), len(content))
            return content[:at] + bytes(stop - at) + content[stop:]
        case "copy":
            begin = draw(st.integers(0, max(len(content) - 8, 0)))
            return (content[:at] + content[begin : begin + 8] + content[at + 8 :])[: len(content)]
    return None


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_damage_passes_for_good(
    sample: Sample, kind: str, tmp_path: Path, data: st.DataObject
) -> None:
    content = sample.path(kind).read_bytes()
    changed = data.draw(damage(content))
    if changed != content:
        check(sample, {kind: changed}, folder=tmp_path)


@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_several_damaged_files_at_once(sample: Sample, tmp_path: Path, data: st.DataObject) -> None:
    kinds = data.draw(st.sets(st.sampled_from(KINDS), min_size=2))
    contents = {kind: sample.path(kind).read_bytes() for kind in kinds}
    damaged = {kind: data.draw(damage(content)) for kind, content in contents.items()}
    changed = {kind: new for kind, new in damaged.items() if new != contents[kind]}
    check(sample, changed, folder=tmp_path)


def copy_to(folder: Path, sample: Sample) -> Path:
    for kind in KINDS:
        shutil.copy(sample.path(kind), folder)
    return folder / "shard"


def test_an_index_cut_anywhere_is_refused(sample: Sample, tmp_path: Path) -> None:
    prefix = copy_to(tmp_path, sample)
    content = sample.path("idx").read_bytes()
    for size in range(len(content)):
        Path(f"{prefix}.idx").write_bytes(content[:size])
        with pytest.raises(DataError, match=r"shard\.idx "):
            IndexedShard(prefix)


def passes_the_index_check(prefix: Path) -> bool:
    with suppress(DataError):
        IndexedShard(prefix).check_index()
        return True
    return False


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """In place: thousands of rewritten files take their time."""
    with path.open("r+b", buffering=0) as file:
        file.seek(bit // 8)
        before = file.read(1)
        os.pwrite(file.fileno(), bytes([before[0] ^ 1 << bit % 8]), bit // 8)
        yield
        os.pwrite(file.fileno(), before, bit // 8)


def test_every_flipped_bit_of_the_index_is_noticed(sample: Sample, tmp_path: Path) -> None:
    """Opening, the check of the whole index or, for bounds that stay in order, the checksum."""
    prefix = copy_to(tmp_path, sample)
    idx = Path(f"{prefix}.idx")
    size = idx.stat().st_size
    first_bound = size - 8 * (IndexedShard(sample.prefix).num_documents + 1)
    for bit in range(8 * size):
        with flipped(idx, bit):
            if passes_the_index_check(prefix):
                assert bit // 8 >= first_bound
                assert not is_verified(prefix)


def test_every_flipped_bit_of_a_packing_is_noticed_by_who_reads_the_row(
    sample: Sample, tmp_path: Path
) -> None:
    prefix = copy_to(tmp_path, sample)
    packed, expected = Path(f"{prefix}.pack{S}"), packed_rows(sample.prefix)
    for bit in range(0, 8 * packed.stat().st_size, 7):
        with flipped(packed, bit):
            assert not differs(packed_rows, prefix, expected)


def test_every_flipped_bit_of_the_ids_is_noticed_by_the_checksum(
    sample: Sample, tmp_path: Path
) -> None:
    prefix = copy_to(tmp_path, sample)
    for bit in range(0, 8 * sample.path("bin").stat().st_size, 7):
        with flipped(Path(f"{prefix}.bin"), bit):
            assert not is_verified(prefix)


def test_ids_beyond_the_vocabulary_are_refused_wherever_they_are_read(
    sample: Sample, tmp_path: Path
) -> None:
    prefix = copy_to(tmp_path, sample)
    shard = IndexedShard(sample.prefix)
    ids = shard.span(0, stop=shard.num_tokens).copy()
    ids[5] = VOCAB
    Path(f"{prefix}.bin").write_bytes(ids.tobytes())
    for read in (concat, best_fit, megatron, masked, heldout, stream):
        with pytest.raises(DataError, match=rf"holds id {VOCAB} at token 5, .*0\.\.{VOCAB - 1}"):
            read(prefix)


def test_negative_ids_are_refused_without_a_vocabulary_too(sample: Sample, tmp_path: Path) -> None:
    prefix = copy_to(tmp_path, sample)
    shard = IndexedShard(sample.prefix)
    if shard.dtype.kind == "u":
        return
    ids = shard.span(0, stop=shard.num_tokens).copy()
    ids[5] = -1
    Path(f"{prefix}.bin").write_bytes(ids.tobytes())
    found = HeldoutSet.open(prefix, sequence_length=S, max_tokens=0)
    with pytest.raises(DataError, match="holds id -1 at token 5"):
        found.load(range(found.num_samples))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(value=json_values, key=st.sampled_from(list(Manifest.__slots__)))
@example(value=[[]] * 3, key="inputs")
@example(value=-1, key="bin_bytes")
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_manifest_of_other_values_is_refused_or_true(
    sample: Sample, tmp_path: Path, value: object, key: str
) -> None:
    content = json.loads(sample.path("json").read_text())
    changed = json.dumps(content | {key: value}).encode()
    check(sample, {"json": changed}, folder=tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"1", b"null", b'"x"', b"[" * 100_000, b"{}", b"\xff\xfe{", b'{"version": 1}'],
    ids=lambda content: repr(content[:8]),
)
def test_a_manifest_of_another_shape_is_refused(
    sample: Sample, tmp_path: Path, content: bytes
) -> None:
    prefix = copy_to(tmp_path, sample)
    Path(f"{prefix}.json").write_bytes(content)
    for read in (read_shard_manifest, verify, concat, lambda p: require_tokenizer(p, **TOKENIZER)):
        with pytest.raises(MegacptError, match=r"shard\.json "):
            read(prefix)


TOKENIZER = {"fingerprint": "x", "owner": "the model"}
