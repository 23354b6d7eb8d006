# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a model are read from: tensors by their Hugging Face names, whatever holds
them, each read a few rows at a time. A Hugging Face folder is one such source.

Whoever reads another format returns a ``SourceModel`` as well, and everything that writes, compares
or loads takes it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from megacpt.config.sections import Dtype
from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.families.stored.files import Stored, read_stored
from megacpt.families.stored.places import StoredAs, hf_shapes, num_four_bits, table_name
from megacpt.families.weights import Role
from megacpt.model.hf_tensors import HfTensors

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""As safetensors writes them."""
TORCH_DTYPES = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16}
"""As people ask for them."""
READ_BYTES = 2**24
"""What is read at once where a whole tensor is wanted piece by piece."""


class Fill(Protocol):
    """Reads the rows of a tensor from ``first`` on, as many as ``out`` has.

    ``out`` is contiguous and of the tensor's own type. Several threads call it at once. A tensor
    without dimensions is one row.
    """

    def __call__(self, out: torch.Tensor, *, first: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LiesAt:
    """Where something begins that is read."""

    file: Path
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """One tensor of the model; rows are the entries of its first dimension."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: Fill
    place: Callable[[int], LiesAt | None] = lambda row: None
    """Of a row; None: whoever reads need not care for the order."""

    @property
    def bytes(self) -> int:
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        return int(torch.Size(self.shape[1:]).numel()) * self.dtype.itemsize

    def read(self, out: torch.Tensor, *, first: int) -> None:
        """As ``fill``, into a tensor of any type."""
        if out.dtype == self.dtype:
            self.fill(out, first=first)
        else:
            out.copy_(self.rows(first, count=len(out)))

    def of_type(self, dtype: torch.dtype | None) -> SourceTensor:
        """The same values as another type; ``None``: as they are."""
        return self if dtype in (None, self.dtype) else replace(self, dtype=dtype, fill=self.read)

    def rows(self, first: int, *, count: int) -> torch.Tensor:
        out = torch.empty((count, *self.shape[1:]), dtype=self.dtype)
        self.fill(out, first=first)
        return out

    def whole(self) -> torch.Tensor:
        return self.rows(0, count=self.shape[0])

    def pieces(self, most_bytes: int = READ_BYTES) -> Iterator[slice]:
        """All rows, a few at a time."""
        step = max(1, most_bytes // max(self.row_bytes, 1))
        for first in range(0, self.shape[0], step):
            yield slice(first, min(first + step, self.shape[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """All weights of a model, under the names that ``hf_shapes`` gives its architecture."""

    folder: Path
    """What the user has named."""
    described_by: Path
    """The Hugging Face folder with config.json, tokenizer and all else that is no weight."""
    architecture: Architecture
    tensors: Mapping[str, SourceTensor]
    files: Mapping[str, str] = field(default_factory=dict)
    """The file that holds each tensor of the Hugging Face folder, by the name it has there; empty
    where that is not known."""
    proving: Callable[[], AbstractContextManager[None]] = nullcontext
    """While all is read; ends with an error where that is not what was written, as far as anybody
    has noted it."""
    four_bits: int = 0
    """Values that were such numbers (MXFP4) and are read as bf16."""


def hugging_face(folder: Path, *, architecture: Architecture) -> SourceModel:
    """``ModelError`` names the tensor that is missing, damaged or of another shape."""
    found = HfTensors.of_folder(folder, architecture=architecture)
    stored = read_stored(folder)
    begins = _begins({place.file for place in found.places.values()})
    tensors = {}
    for name, place in found.places.items():
        coded = place.part.scales is not None
        dtype = torch.bfloat16 if coded else DTYPES[stored[place.part.name].dtype]
        fill = _fill_of(name, place=place, dtype=dtype, found=found, begins=begins)
        tensors[name] = SourceTensor(shape=place.shape, dtype=dtype, fill=fill)
    return SourceModel(
        folder=folder,
        described_by=folder,
        architecture=architecture,
        tensors=own_tensors(tensors, architecture=architecture, folder=folder),
        files={name: tensor.file.name for name, tensor in stored.items()},
        four_bits=num_four_bits(found.places),
    )


def own_tensors(
    found: Mapping[str, SourceTensor], *, architecture: Architecture, folder: Path
) -> dict[str, SourceTensor]:
    """Those that the architecture has; a tied head beside them must be the embedding."""
    shapes = hf_shapes(architecture)
    head, table = (table_name(architecture, role=role) for role in (Role.head, Role.embedding))
    if head in found and head not in shapes:
        _require_tied(found[head], table=found[table], folder=folder)
    return {name: found[name] for name in shapes}


def stored_tensor(name: str, *, stored: Stored) -> SourceTensor:
    """A tensor as it lies in a file of a folder, of the model or not."""
    begin = _begins([stored.file])[name]
    dtype = DTYPES[stored.dtype]
    row_bytes = int(torch.Size(stored.shape[1:]).numel()) * dtype.itemsize
    return SourceTensor(
        shape=stored.shape,
        dtype=dtype,
        fill=partial(_fill_bytes, file=stored.file, begin=begin, row_bytes=row_bytes, what=name),
    )


def _fill_of(
    name: str, *, place: StoredAs, dtype: torch.dtype, found: HfTensors, begins: Mapping[str, int]
) -> Fill:
    """Rows that lie one after another in their file are read from there; others are cut out."""
    part = place.part
    is_all = not part.where(place.shape, dim=None, span=None) and part.scales is None
    if not is_all or part.rows is not None or part.transposed:

        def fill(out: torch.Tensor, *, first: int) -> None:
            last = first + len(out)
            rows = part.whole_groups(slice(first, last))
            read = found.read(name, dim=0, span=rows)
            out.copy_(read[first - rows.start : last - rows.start].reshape(out.shape))

        return fill
    row_bytes = int(torch.Size(place.shape[1:]).numel()) * dtype.itemsize
    return partial(
        _fill_bytes,
        file=place.file,
        begin=begins[part.name],
        row_bytes=row_bytes,
        what=part.name,
    )


def _fill_bytes(
    out: torch.Tensor, *, first: int, file: Path, begin: int, row_bytes: int, what: str
) -> None:
    read_exactly(bytes_of(out), file=file, at=begin + first * row_bytes, what=what)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor, whatever its type."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)


def read_exactly(out: memoryview, *, file: Path, at: int, what: str) -> None:
    """Fill ``out`` from the byte ``at`` on; no page of the file is mapped, so none counts as
    memory of this process."""
    done = 0
    with file.open("rb", buffering=0) as stream:
        while done < len(out):
            count = os.preadv(stream.fileno(), [out[done:]], at + done)
            if count == 0:
                raise ModelError(
                    f"{file} ends within {what}; it has been cut short: copy it again."
                )
            done += count


def _begins(files: Iterable[Path]) -> dict[str, int]:
    """Where the bytes of each tensor begin in its safetensors file."""
    begins: dict[str, int] = {}
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(length))
        head.pop("__metadata__", None)
        begins |= {name: 8 + length + stated["data_offsets"][0] for name, stated in head.items()}
    return begins


def _require_tied(head: SourceTensor, *, table: SourceTensor, folder: Path) -> None:
    """A tied head that is stored as well must be the embedding, or leaving it out changes it."""
    for rows in head.pieces():
        count = rows.stop - rows.start
        if not torch.equal(head.rows(rows.start, count=count), table.rows(rows.start, count=count)):
            raise ModelError(
                f"the head in {folder} must equal the embedding, because config.json says "
                "tie_word_embeddings, but differs; set tie_word_embeddings to false there."
            )
