# SPDX-License-Identifier: Apache-2.0
"""Token shards: PREFIX.bin and PREFIX.idx, byte for byte the format of Megatron's IndexedDataset.

PREFIX.bin is the documents' ids one after another, nothing between them. So the stream of a whole
shard is the file itself. PREFIX.idx is little-endian:

    bytes  content
    9      b"MMIDIDX\\0\\0"
    8      version, 1
    1      type code of an id: 4 int32, 8 uint16; of other tools also 1 uint8, 2 int8, 3 int16,
           5 int64
    8      number of sequences N
    8      number of document bounds D + 1
    4 N    int32 length of each sequence, in ids
    8 N    int64 offset of each sequence in PREFIX.bin, in bytes
    8 D+8  int64 bounds of each document, in sequences

Here a document is one sequence; the reader also takes documents of several, as Megatron writes
when it splits sentences, and a multimodal index whose sequences are all text (N more bytes of 0).

Megatron finds a sequence by its offset alone, so there may be bytes between them that none holds,
and they may lie in any order. Such a shard is refused; megacpt merge lays it end to end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.errors import DataError
from megacpt.shards.format import HEADER, choose_dtype
from megacpt.shards.header import damaged, read_header, require_text
from megacpt.shards.writer import AT_ONCE, ShardWriter

Tokens = npt.NDArray[np.integer[Any]]


class IndexedShard:
    """A token shard, memory-mapped; opening it reads a few pages whatever its size."""

    def __init__(
        self,
        prefix: Path | str,
        *,
        vocab_size: int | None = None,
        scattered: bool = False,
        end_to_end: bool = True,
    ) -> None:
        """``scattered``: read here and there rather than from front to back. Without
        ``end_to_end``, only ``runs`` and the arrays of the index say where sequences are."""
        self.prefix = Path(prefix)
        self._id_limit = np.iinfo(np.int64).max if vocab_size is None else vocab_size
        idx, bin_ = (
            _map(Path(f"{self.prefix}.{kind}"), prefix=self.prefix, scattered=scattered)
            for kind in ("idx", "bin")
        )
        header = read_header(idx, prefix=self.prefix)
        self.dtype = header.dtype
        at = HEADER.size
        self.sequence_lengths = idx[at : (at := at + 4 * header.num_sequences)].view("<i4")
        """Ids in each sequence, a view into the index as the next two."""
        self.sequence_offsets = idx[at : (at := at + 8 * header.num_sequences)].view("<i8")
        """Start of each sequence in PREFIX.bin, in bytes."""
        self.document_bounds = idx[at : (at := at + 8 * header.num_bounds)].view("<i8")
        """The sequence each document begins with, and the number of sequences."""
        if header.has_modes:
            require_text(idx[at:], prefix=self.prefix)
        self._check_ends(bin_bytes=bin_.size, end_to_end=end_to_end)
        self._tokens: Tokens = bin_[: bin_.size - bin_.size % self.dtype.itemsize].view(self.dtype)
        self.stream = _C.TokenStream(
            self._tokens,
            offsets=self.sequence_offsets,
            bounds=self.document_bounds,
            id_limit=self._id_limit,
        )

    @property
    def num_documents(self) -> int:
        return self.document_bounds.size - 1

    @property
    def num_tokens(self) -> int:
        return self._tokens.size

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Ids in each document, of a shard that passed ``check_index``; takes O(documents)."""
        return np.diff(self.starts(0, stop=self.num_documents))

    def starts(self, first: int, *, stop: int) -> npt.NDArray[np.int64]:
        """Starts of documents ``first .. stop-1`` in the stream, and the end of the last of them,
        of a shard that passed ``check_index``."""
        sequences = self.document_bounds[first : stop + 1]
        starts = np.full(sequences.size, self.num_tokens, dtype=np.int64)
        inside = sequences < self.sequence_offsets.size
        starts[inside] = self.sequence_offsets[sequences[inside]] // self.dtype.itemsize
        return starts

    def document(self, number: int) -> Tokens:
        """Ids of document ``number``, a view into the file."""
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} of {self.num_documents}")
        first, last = self.document_bounds[number], self.document_bounds[number + 1]
        if not 0 <= first <= last <= self.sequence_offsets.size:
            raise damaged(
                self.prefix,
                problem=f"bounds document {number} by sequences {first} and {last}",
            )
        return self.span(self._start_of(int(first)), stop=self._start_of(int(last)))

    def span(self, start: int, *, stop: int) -> Tokens:
        """Ids ``start .. stop-1`` of all documents laid end to end, a view into the file."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise DataError(
                f"{self.prefix}: span {start}..{stop} is not within its {self.num_tokens} tokens."
            )
        return self._tokens[start:stop]

    def ids(self, start: int, *, stop: int) -> npt.NDArray[np.int64]:
        """A copy of ``span`` in which every id is known to be within the vocabulary."""
        ids = self.span(start, stop=stop).astype(np.int64)
        limit = self._id_limit
        if ids.size and not (ids.min() >= 0 and ids.max() < limit):
            wrong = start + int(np.argmax((ids < 0) | (ids >= limit)))
            raise DataError(
                f"{self.prefix}.bin holds id {ids[wrong - start]} at token {wrong}, but ids must "
                f"be in 0..{limit - 1}; tokenize the text again with the tokenizer of the model, "
                "which must have no more ids than the model has rows."
            )
        return ids

    def document_starts(self, start: int, *, stop: int) -> npt.NDArray[np.int64]:
        """Tokens in ``start .. stop-1`` that begin a document; reads O(log documents) + these."""
        first = bisect_left(range(self.num_documents), start, key=self._first_token)
        starts: list[int] = []
        for document in range(first, self.num_documents):
            token = self._first_token(document)
            if token < (starts[-1] if starts else start):
                raise damaged(
                    self.prefix,
                    problem=f"lets document {document} begin before the one before it",
                )
            if token >= stop:
                break
            starts.append(token)
        return np.unique(np.array(starts, dtype=np.int64))

    def document_at(self, token: int) -> tuple[int, int]:
        """The document that token ``token`` of the stream is in, and its number there."""
        after = bisect_right(range(self.num_documents), token, key=self._first_token)
        return after - 1, token - self._first_token(after - 1)

    def _first_token(self, document: int) -> int:
        sequence = int(self.document_bounds[document])
        if 0 <= sequence <= self.sequence_offsets.size:
            whole = sequence == self.sequence_offsets.size
            begin = self._tokens.nbytes if whole else int(self.sequence_offsets[sequence])
            token, rest = divmod(begin, self.dtype.itemsize)
            if rest == 0 and 0 <= token <= self.num_tokens:
                return token
        raise damaged(
            self.prefix, problem=f"says nothing sensible of where document {document} begins"
        )

    def check_index(self) -> None:
        """Read the whole index and raise DataError unless it describes PREFIX.bin exactly."""
        runs = self.runs()
        if next(runs) != (0, self.num_tokens) or next(runs, None) is not None:
            raise self._apart("has sequences that do not lie end to end")
        self.check_bounds()

    def check_bounds(self) -> None:
        if np.any(self.document_bounds[1:] < self.document_bounds[:-1]):
            raise damaged(self.prefix, problem="holds document bounds that go backwards")

    def runs(self) -> Iterator[tuple[int, int]]:
        """Spans of PREFIX.bin, in tokens, that hold the sequences one after another; where they
        lie end to end, (0, num_tokens) alone. Reads the whole index; DataError if it points
        outside."""
        size, begin, end = self.dtype.itemsize, 0, 0
        for at in range(0, self.sequence_offsets.size, AT_ONCE):
            starts = self.sequence_offsets[at : at + AT_ONCE]
            sizes = self.sequence_lengths[at : at + AT_ONCE].astype(np.int64) * size
            outside = (sizes < 0) | (starts < 0) | (starts > self._tokens.nbytes - sizes)
            if np.any(outside | (starts % size != 0)):
                raise damaged(
                    self.prefix, problem="holds lengths and offsets that contradict each other"
                )
            stops = starts + sizes
            for jump in np.flatnonzero(starts != np.append(end, stops[:-1])).tolist():
                yield begin // size, int(stops[jump - 1] if jump else end) // size
                begin = int(starts[jump])
            end = int(stops[-1])
        yield begin // size, end // size

    def _start_of(self, sequence: int) -> int:
        if sequence == self.sequence_offsets.size:
            return self.num_tokens
        return int(self.sequence_offsets[sequence]) // self.dtype.itemsize

    def _check_ends(self, *, bin_bytes: int, end_to_end: bool) -> None:
        """What can be known of index and tokens together without reading all of the index."""
        if self.document_bounds[0] != 0 or self.document_bounds[-1] != self.sequence_offsets.size:
            raise damaged(
                self.prefix, problem="holds document bounds that do not cover its sequences"
            )
        first = int(self.sequence_offsets[0]) if self.sequence_offsets.size else 0
        end = self._end_in_bytes()
        found = f"describes bytes {first} to {end} of {self.prefix}.bin, which has {bin_bytes}"
        if not 0 <= first <= bin_bytes or not 0 <= end <= bin_bytes or end % self.dtype.itemsize:
            raise damaged(self.prefix, problem=found)
        if end_to_end and (first != 0 or end != bin_bytes):
            raise self._apart(found)

    def _end_in_bytes(self) -> int:
        """End of the last sequence with ids: an empty one would fit ids of any size."""
        last = self.sequence_lengths.size - 1
        while last >= 0 and self.sequence_lengths[last] == 0:
            last -= 1
        if last < 0:
            return 0
        return (
            int(self.sequence_offsets[last])
            + int(self.sequence_lengths[last]) * self.dtype.itemsize
        )

    def _apart(self, problem: str) -> DataError:
        return DataError(
            f"{self.prefix}.idx {problem}. Megatron reads such a shard by its offsets, megacpt "
            f"does not: megacpt merge {self.prefix} --output PREFIX lays its sequences end to end. "
            "If nobody made it so, a file is cut short, changed or of another shard: copy again."
        )


def _map(path: Path, *, prefix: Path, scattered: bool) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(
            memoryview(_C.MappedFile(str(path), scattered=scattered)), dtype=np.uint8
        )
    except FileNotFoundError as error:
        raise DataError(
            f"token shard {prefix} does not exist: there is no {path}; give the prefix without "
            ".bin or .idx, as megacpt tokenize printed it."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the file.") from error


def write_shard(
    prefix: Path | str, *, documents: Iterable[npt.ArrayLike], vocab_size: int
) -> IndexedShard:
    """Write documents of token ids as a shard without a manifest, and open it."""
    with ShardWriter(prefix, dtype=choose_dtype(vocab_size)) as writer:
        for document in documents:
            writer.add(np.asarray(document))
        writer.publish()
    return IndexedShard(prefix)
