# SPDX-License-Identifier: Apache-2.0
"""What torch.save has written, with the place of each tensor instead of its values.

Such a file is a zip archive, nothing in it compressed: a pickle of everything but the numbers, and
a record for each storage. In torch's distributed checkpoints many of them lie in one file.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from megacpt.checkpoint.stored.pickles import NONE, Known, read_pickle
from megacpt.errors import CheckpointError

Where = tuple[slice, ...]
"""Begin and end along each dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storage:
    start: int
    num_bytes: int
    dtype: torch.dtype | None
    """``None``: the tensor says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor that lies in a file as it lies in memory."""

    path: Path
    start: int
    """Byte of the file where its storage begins."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int = 0
    """Its first element within the storage."""

    @property
    def end(self) -> int:
        """Byte of the file after its last value."""
        return self._byte_after(tuple(slice(0, size) for size in self.shape))

    @property
    def is_contiguous(self) -> bool:
        """Nothing lies between its values."""
        steps = zip(self.shape, self.strides, _strides(self.shape), strict=True)
        return all(size == 1 or stride == own for size, stride, own in steps)

    def viewed(self, shape: tuple[int, ...]) -> StoredTensor:
        """The same values in order, in another shape of as many."""
        if shape == self.shape:
            return self
        if not self.is_contiguous or math.prod(shape) != math.prod(self.shape):
            raise CheckpointError(
                f"{self.path} holds a tensor of shape {list(self.shape)} with strides "
                f"{list(self.strides)}, which is read as {list(shape)} only where nothing lies "
                "between its values; save it contiguous."
            )
        return replace(self, shape=shape, strides=_strides(shape))

    def copy_to(self, out: torch.Tensor, *, where: Where) -> None:
        """Fill ``out`` with that part; the file is mapped no longer than it takes."""
        if out.numel() == 0:
            return
        low = self.first + sum(b.start * s for b, s in zip(where, self.strides, strict=True))
        begin = self.start + low * self.dtype.itemsize
        before = begin % mmap.ALLOCATIONGRANULARITY
        length = before + self._byte_after(where) - begin
        access = mmap.ACCESS_COPY  # torch warns of memory that it must not write to
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), length, offset=begin - before, access=access) as memory,
        ):
            values = torch.frombuffer(memory, dtype=self.dtype, offset=before)
            out.copy_(values.as_strided(out.shape, self.strides))
            del values  # the map cannot be closed while it is looked into

    def _byte_after(self, where: Where) -> int:
        if any(b.stop == b.start for b in where):
            return self.start
        steps = zip(where, self.strides, strict=True)
        last = self.first + sum((b.stop - 1) * stride for b, stride in steps)
        return int(self.start + (last + 1) * self.dtype.itemsize)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of memory without gaps."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def read_torch_file(
    path: Path, *, start: int = 0, length: int | None = None, known: Known = NONE
) -> Any:
    """The object in those bytes of ``path``, each tensor as a StoredTensor; all else that is
    neither plain nor ``known`` is Inert."""
    with path.open("rb") as file:
        size = path.stat().st_size - start if length is None else length
        try:
            with zipfile.ZipFile(_Window(file, start=start, length=size)) as archive:
                return _Content(archive, path=path, start=start, known=known).read()
        except zipfile.BadZipFile as error:
            raise CheckpointError(
                f"{path} is not whole, or not of torch.save's format of today ({error}); copy it "
                "again, or save it anew."
            ) from error


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _data(data: object, *_: object) -> object:
    """Of a parameter."""
    return data


def _of_type(rebuild: Callable[..., object], *given: Any) -> object:
    """A tensor with attributes, which are left out; one of another class holds no plain numbers."""
    kind, arguments, *_ = given
    plain = kind in (torch.Tensor, torch.nn.Parameter)
    return rebuild(*arguments) if plain else kind


class _Content:
    def __init__(self, archive: zipfile.ZipFile, *, path: Path, start: int, known: Known) -> None:
        self._archive, self._path, self._start, self._known = archive, path, start, known
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise zipfile.BadZipFile("it has no data.pkl")
        self._root = pickles[0].removesuffix("data.pkl")

    def read(self) -> Any:
        order = f"{self._root}byteorder"
        if order in self._archive.namelist() and self._record(order) != b"little":
            raise CheckpointError(f"{self._path} has its bytes in big-endian order; save it anew.")
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): _data,
            ("torch._utils", "_rebuild_parameter_with_state"): _data,
            ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
            ("torch", "Tensor"): torch.Tensor,
            ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
            **self._known,
            ("torch.storage", "UntypedStorage"): None,
            **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        }
        content = io.BytesIO(self._record(f"{self._root}data.pkl"))
        return read_pickle(content, path=self._path, known=known, persistent=self._storage)

    def _storage(self, reference: Any) -> _Storage:
        _, dtype, key, *_ = reference
        info = self._archive.getinfo(f"{self._root}data/{key}")
        begin = self._start + self._begin(info)
        return _Storage(start=begin, num_bytes=info.file_size, dtype=dtype)

    def _record(self, name: str) -> bytes:
        """Not by ``ZipFile.read``, which compares sums that torch may have been told to leave out
        (``set_crc32_options``)."""
        info = self._archive.getinfo(name)
        begin = self._begin(info)
        return self._read(info.file_size, at=begin)

    def _begin(self, info: zipfile.ZipInfo) -> int:
        if info.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"{info.filename} is compressed")
        # The head of the record, whose name and padding end where its content begins.
        name, padding = struct.unpack("<HH", self._read(4, at=info.header_offset + 26))
        return int(info.header_offset + 30 + name + padding)

    def _read(self, size: int, *, at: int) -> bytes:
        file = self._archive.fp
        assert file is not None
        file.seek(at)
        content = file.read(size)
        if len(content) != size:
            raise zipfile.BadZipFile("it ends too soon")
        return content

    def _tensor(self, *arguments: Any) -> StoredTensor:
        """As torch._utils calls its functions: the type comes last where the storage has none."""
        storage, first, shape, strides, _, _, *own_dtype = arguments
        tensor = StoredTensor(
            path=self._path,
            start=storage.start,
            dtype=storage.dtype or own_dtype[0],
            shape=tuple(shape),
            strides=tuple(strides),
            first=first,
        )
        if tensor.end > storage.start + storage.num_bytes:
            raise ValueError(f"a tensor of shape {list(shape)} is larger than its values")
        return tensor


class _Window(io.RawIOBase):
    """Bytes of a file as a file of their own."""

    def __init__(self, file: IO[bytes], *, start: int, length: int) -> None:
        super().__init__()
        self._file, self._start, self._length, self._at = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = max(self._length - self._at, 0)
        self._file.seek(self._start + self._at)
        content = self._file.read(left if size < 0 else min(size, left))
        self._at += len(content)
        return content
