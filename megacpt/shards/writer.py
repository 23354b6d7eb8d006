# SPDX-License-Identifier: Apache-2.0
"""Write a token shard aside and publish it whole: readers see the old shard, none, or the new one.

Memory is bounded: lengths go to a file as they come, and the index is made from it bit by bit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from megacpt.corpus.documents import QUARANTINE
from megacpt.errors import DataError, EnvironmentError_
from megacpt.files import sync
from megacpt.shards.format import HEADER, MAGIC, VERSION, code_of

MASK = "mask"
"""PREFIX.``MASK`` says which tokens are learned (megacpt.shards.loss_mask); a shard that is written
without one leaves none of an older shard."""
AT_ONCE = 1 << 20
"""Index entries that are in memory at once (8 MiB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFiles:
    """What a finished shard weighs."""

    documents: int
    tokens: int
    bin_bytes: int
    idx_bytes: int
    bin_sha256: str
    idx_sha256: str
    mask_sha256: str = ""
    """"" of a shard without a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBounds:
    """Documents that are not one sequence each: the sequence each begins with, and at the end the
    number of sequences; ``documents + 1`` numbers, some at a time."""

    documents: int
    numbers: Iterable[npt.NDArray[np.int64]]


class ShardWriter:
    """``with ShardWriter(prefix, dtype=...) as w: w.add(ids); w.publish()``.

    Leaving the block without ``publish`` removes everything that was written.
    """

    def __init__(self, prefix: Path | str, *, dtype: np.dtype[np.integer[Any]]) -> None:
        self.prefix = Path(prefix)
        self.dtype = dtype
        self.documents = self.tokens = 0
        self._open: list[BinaryIO] = []
        self._mask: _HashedFile | None = None

    def __enter__(self) -> ShardWriter:
        try:
            with self._reported():
                self.prefix.parent.mkdir(parents=True, exist_ok=True)
                self._lengths = self.aside("lengths").open("w+b")
                self._open.append(self._lengths)
                self._bin = _HashedFile(self.aside("bin"))
                self._open.append(self._bin.stream)
        except EnvironmentError_:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        """Remove what is still aside."""
        for stream in self._open:
            # A full disk makes the flush inside close fail once more; the files go anyway.
            with suppress(OSError):
                stream.close()
        for kind in ("bin", "idx", "json", "lengths", MASK, QUARANTINE):
            with suppress(OSError):
                self.aside(kind).unlink(missing_ok=True)

    def _name(self, kind: str) -> Path:
        return Path(f"{self.prefix}.{kind}")

    def aside(self, kind: str) -> Path:
        """The path a file is written to before it gets its name PREFIX.``kind``."""
        return Path(f"{self.prefix}.{kind}.partial")

    def add(self, document: npt.NDArray[Any]) -> None:
        """Append one document."""
        self.add_many(document, lengths=np.array([document.size]))

    def add_many(self, tokens: npt.NDArray[Any], *, lengths: npt.NDArray[Any]) -> None:
        """Append documents of these lengths, their tokens laid end to end."""
        if int(lengths.sum()) != tokens.size:
            raise ValueError(f"lengths add up to {lengths.sum()}, but there are {tokens.size} ids")
        self.add_tokens(tokens)
        self.add_lengths(lengths)

    def add_tokens(self, tokens: npt.NDArray[Any]) -> None:
        """Append to the stream; ``add_lengths`` says, before or after, where documents end."""
        self._check_range(tokens)
        with self._reported():
            self._bin.write(tokens.astype(self.dtype, copy=False).tobytes())
        self.tokens += tokens.size

    def adopt_tokens(self, path: Path, *, sha256: str) -> bool:
        """Take a file as the whole stream, without copying: it stays where it is, too.

        False where the file system has no links; then nothing has happened.
        """
        if self.tokens:
            raise ValueError(f"{self.prefix} holds {self.tokens} tokens already")
        try:
            return self._bin.adopt(path, sha256=sha256)
        except OSError:
            return False
        finally:
            self.tokens = self._bin.size // self.dtype.itemsize

    def add_lengths(self, lengths: npt.NDArray[Any]) -> None:
        with self._reported():
            self._lengths.write(lengths.astype("<i4", copy=False).tobytes())
        self.documents += lengths.size

    def add_mask(self, mask_T: npt.NDArray[np.uint8]) -> None:
        """Append to PREFIX.mask: a byte for each token, before or after it."""
        with self._reported():
            if self._mask is None:
                self._mask = _HashedFile(self.aside(MASK))
                self._open.append(self._mask.stream)
            self._mask.write(mask_T.tobytes())

    def write_beside(self, kind: str, *, content: Iterable[bytes]) -> None:
        """A further file, to be published with the shard."""
        with self._reported():
            _write_synced(self.aside(kind), content=content)

    def publish(
        self,
        *,
        describe: Callable[[ShardFiles], str] | None = None,
        bounds: DocumentBounds | None = None,
        beside: Sequence[str] = (),
    ) -> ShardFiles:
        """Finish the index, flush all files to the disk and give them their names.

        With ``bounds`` the lengths are those of sequences, of which a document may have several.
        ``describe`` makes the text of PREFIX.json. ``beside`` are further kinds of files that lie
        aside, whole. An index of the same name goes first and the
        new one comes last: where this is cut short there is no shard, never a mixed one.
        """
        with self._reported():
            files = self._finish(bounds)
            text = describe(files) if describe else None
            if text is not None:
                _write_synced(self.aside("json"), content=[text.encode("utf-8")])
            self._name("idx").unlink(missing_ok=True)
            if self._mask is None:
                self._name(MASK).unlink(missing_ok=True)
            else:
                self.aside(MASK).replace(self._name(MASK))
            for kind in (*beside, "bin", *(("json",) if text is not None else ()), "idx"):
                self.aside(kind).replace(self._name(kind))
            sync(self.prefix.parent)
        return files

    def _finish(self, bounds: DocumentBounds | None) -> ShardFiles:
        idx = _HashedFile(self.aside("idx"))
        try:
            self._write_index(idx, bounds=bounds)
            idx.sync()
        finally:
            with suppress(OSError):
                idx.stream.close()
        self._bin.sync()
        if self._mask is not None:
            assert self._mask.size == self.tokens, "each token has its byte of the mask"
            self._mask.sync()
        return ShardFiles(
            documents=bounds.documents if bounds else self.documents,
            tokens=self.tokens,
            bin_bytes=self._bin.size,
            idx_bytes=idx.size,
            bin_sha256=self._bin.sha256,
            idx_sha256=idx.sha256,
            mask_sha256=self._mask.sha256 if self._mask else "",
        )

    def _write_index(self, idx: _HashedFile, *, bounds: DocumentBounds | None) -> None:
        self._lengths.flush()
        bounds = bounds or _one_sequence_each(self.documents)
        num_bounds = bounds.documents + 1
        idx.write(HEADER.pack(MAGIC, VERSION, code_of(self.dtype), self.documents, num_bounds))
        for lengths in self._all_lengths():
            idx.write(lengths.tobytes())
        offset = 0
        for lengths in self._all_lengths():
            ends = offset + np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
            idx.write(np.append(offset, ends[:-1]).astype("<i8").tobytes())
            offset = int(ends[-1])
        assert offset == self._bin.size, "lengths and tokens were added in equal number"
        for bound in bounds.numbers:
            idx.write(bound.astype("<i8").tobytes())

    def _all_lengths(self) -> Iterator[npt.NDArray[np.int32]]:
        self._lengths.seek(0)
        while content := self._lengths.read(4 * AT_ONCE):
            yield np.frombuffer(content, dtype="<i4")

    def _check_range(self, tokens: npt.NDArray[Any]) -> None:
        limits = np.iinfo(self.dtype)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() <= limits.max):
            raise DataError(
                f"{self.prefix}: token ids {tokens.min()}..{tokens.max()} do not fit {self.dtype} "
                f"(0..{limits.max}); tokenize with the tokenizer of the declared vocabulary."
            )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Say which shard could not be written, and why, when the system refuses."""
        try:
            yield
        except OSError as error:
            raise EnvironmentError_(
                f"token shard {self.prefix} cannot be written: {error.strerror}; nothing was left "
                "behind. Free space, or choose another output prefix, and start again."
            ) from error


def _one_sequence_each(documents: int) -> DocumentBounds:
    starts = range(0, documents + 1, AT_ONCE)
    numbers = (np.arange(start, min(start + AT_ONCE, documents + 1)) for start in starts)
    return DocumentBounds(documents=documents, numbers=numbers)


class _HashedFile:
    """A file opened for writing that knows the sha256 of what went into it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stream: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._adopted: str | None = None
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._adopted or self._digest.hexdigest()

    def write(self, content: bytes) -> None:
        self.stream.write(content)
        self._digest.update(content)
        self.size += len(content)

    def adopt(self, path: Path, *, sha256: str) -> bool:
        """Be another name of a whole file."""
        link = Path(f"{self._path}.link")
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(self._path)
        self.stream.close()
        self.stream = self._path.open("ab")
        self._adopted, self.size = sha256, path.stat().st_size
        return True

    def sync(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())


def _write_synced(path: Path, *, content: Iterable[bytes]) -> None:
    with path.open("wb") as stream:
        stream.writelines(content)
        stream.flush()
        os.fsync(stream.fileno())
