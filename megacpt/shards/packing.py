# SPDX-License-Identifier: Apache-2.0
"""``packing: best_fit``: rows of whole documents, worked out once a shard and sequence length.

PREFIX.pack<S> says which documents fill which row of S inputs. A document of n tokens gives n - 1
inputs, each with the token after it as target; one of more than S inputs is cut into pieces of S
and a rest, whose first token is the last target of the piece before. Pieces are placed by best
fit decreasing (csrc/packing.h). Documents of one token or none have no target and are left out.
The file is little-endian, R rows and P pieces:

    bytes  content
    8      b"MCPTPACK"
    72     version, S, R, P, documents, tokens, documents left out, documents cut, inputs in rows
    32     sha256 of the shard's identity (megacpt.shards.manifest)
    32     sha256 of the bytes before
    8 R+8  int64 first piece of each row, then P
    8 R    uint64 checksum of each row
    8 P    int64 first token of each piece, counted over the whole shard
    4 P    int32 inputs of each piece
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.errors import DataError
from megacpt.files import write_parts
from megacpt.shards.manifest import shard_identity
from megacpt.shards.reader import IndexedShard

MAGIC = b"MCPTPACK"
VERSION = 1
HEADER = struct.Struct("<8s9Q32s")
DIGEST_BYTES = 32
ARRAYS_AT = HEADER.size + DIGEST_BYTES
LARGEST_SEQUENCE_LENGTH = 1 << 24

Spans = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """The header's numbers, in its order."""

    sequence_length: int
    rows: int
    pieces: int
    documents: int
    tokens: int
    left_out: int
    """Documents without a target: of one token or none."""
    cut: int
    """Documents of more than ``sequence_length`` inputs."""
    inputs: int

    @property
    def fill_rate(self) -> float:
        """Part of the rows that is not padding."""
        return self.inputs / (self.rows * self.sequence_length)

    @property
    def file_bytes(self) -> int:
        return ARRAYS_AT + 8 * (2 * self.rows + 1) + 12 * self.pieces


def pack_path(prefix: Path | str, *, sequence_length: int) -> Path:
    return Path(f"{prefix}.pack{sequence_length}")


def pack(prefixes: Sequence[Path | str], *, sequence_length: int) -> list[PackSummary]:
    """Write PREFIX.pack<S> of each shard, over one that is there."""
    summaries = []
    for prefix in prefixes:
        build_packing(IndexedShard(prefix), sequence_length=sequence_length)
        summaries.append(PackedShard.open(prefix, sequence_length=sequence_length).summary)
    return summaries


def build_packing(shard: IndexedShard, *, sequence_length: int) -> Path:
    """Pack a shard; O(documents), with 28 bytes of memory for each."""
    if not 1 <= sequence_length <= LARGEST_SEQUENCE_LENGTH:
        raise DataError(
            f"sequence length {sequence_length} is not in 1..{LARGEST_SEQUENCE_LENGTH}; "
            "pack for the data.sequence_length of the run."
        )
    shard.check_index()
    row_ends, checksums, starts, inputs, cut, left_out = _C.best_fit(
        shard.sequence_offsets,
        shard.document_bounds,
        item_bytes=shard.dtype.itemsize,
        num_tokens=shard.num_tokens,
        sequence_length=sequence_length,
    )
    if starts.size == 0:
        raise DataError(
            f"token shard {shard.prefix} has no document of two tokens or more, so there is "
            "nothing to pack; tokenize more text."
        )
    summary = PackSummary(
        sequence_length=sequence_length,
        rows=checksums.size,
        pieces=starts.size,
        documents=shard.num_documents,
        tokens=shard.num_tokens,
        left_out=left_out,
        cut=cut,
        inputs=int(inputs.sum(dtype=np.int64)),
    )
    path = pack_path(shard.prefix, sequence_length=sequence_length)
    head = HEADER.pack(MAGIC, VERSION, *astuple(summary), _identity(shard))
    arrays = [array.data for array in (row_ends, checksums, starts, inputs)]
    write_parts(path, parts=[head, hashlib.sha256(head).digest(), *arrays])
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedShard:
    """PREFIX.pack<S>, memory-mapped; opening it reads a few pages whatever its size."""

    prefix: Path
    summary: PackSummary
    rows: _C.PackedRows

    @classmethod
    def open(cls, prefix: Path | str, *, sequence_length: int) -> PackedShard:
        """DataError unless the file is whole and was made from this very shard."""
        raw = _map(prefix, sequence_length=sequence_length)
        summary, identity = _read_header(raw, prefix=prefix, sequence_length=sequence_length)
        if identity != _identity(IndexedShard(prefix)):
            raise _unusable(
                prefix, sequence_length=sequence_length, problem="was packed from another shard"
            )
        return cls(prefix=Path(prefix), summary=summary, rows=_arrays(raw, summary=summary))

    @property
    def num_rows(self) -> int:
        return self.summary.rows

    def row(self, number: int) -> Spans:
        """The tokens of each piece, first and one past the last, in the order of the text."""
        try:
            return self.rows.row(
                number,
                sequence_length=self.summary.sequence_length,
                num_tokens=self.summary.tokens,
            )
        except ValueError as error:
            problem = f"is damaged: {error}"
            raise _unusable(
                self.prefix, sequence_length=self.summary.sequence_length, problem=problem
            ) from error


def _identity(shard: IndexedShard) -> bytes:
    return hashlib.sha256(shard_identity(shard).encode()).digest()


def _map(prefix: Path | str, *, sequence_length: int) -> npt.NDArray[np.uint8]:
    path = pack_path(prefix, sequence_length=sequence_length)
    try:
        return np.frombuffer(memoryview(_C.MappedFile(str(path))), dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist, but data.packing=best_fit needs it; run: "
            f"{_command(prefix, sequence_length=sequence_length)}"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file.") from error


def _read_header(
    raw: npt.NDArray[np.uint8], *, prefix: Path | str, sequence_length: int
) -> tuple[PackSummary, bytes]:
    head = raw[: HEADER.size].tobytes()
    digest = raw[HEADER.size : ARRAYS_AT].tobytes()
    if digest != hashlib.sha256(head).digest():
        raise _unusable(
            prefix, sequence_length=sequence_length, problem="does not begin with a whole header"
        )
    magic, version, *counts, identity = HEADER.unpack(head)
    if magic != MAGIC or version != VERSION:
        raise _unusable(
            prefix, sequence_length=sequence_length, problem=f"is not of version {VERSION}"
        )
    summary = PackSummary(**dict(zip(PackSummary.__slots__, counts, strict=True)))
    if summary.sequence_length != sequence_length:
        raise _unusable(
            prefix,
            sequence_length=sequence_length,
            problem=f"packs rows of {summary.sequence_length}",
        )
    if raw.size != summary.file_bytes:
        problem = f"has {raw.size} bytes instead of {summary.file_bytes}"
        raise _unusable(prefix, sequence_length=sequence_length, problem=problem)
    return summary, identity


def _arrays(raw: npt.NDArray[np.uint8], *, summary: PackSummary) -> _C.PackedRows:
    sizes = [8 * (summary.rows + 1), 8 * summary.rows, 8 * summary.pieces, 4 * summary.pieces]
    ends = ARRAYS_AT + np.cumsum([0, *sizes])
    types = ("<i8", "<u8", "<i8", "<i4")
    parts = zip(ends[:-1].tolist(), ends[1:].tolist(), types, strict=True)
    return _C.PackedRows(*(raw[begin:end].view(kind) for begin, end, kind in parts))


def _unusable(prefix: Path | str, *, sequence_length: int, problem: str) -> DataError:
    path = pack_path(prefix, sequence_length=sequence_length)
    return DataError(
        f"{path} {problem}; make it again: {_command(prefix, sequence_length=sequence_length)}"
    )


def _command(prefix: Path | str, *, sequence_length: int) -> str:
    return f"megacpt pack {prefix} --sequence-length {sequence_length}"


__all__ = ["PackSummary", "PackedShard", "build_packing", "pack", "pack_path"]
