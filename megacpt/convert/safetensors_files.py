# SPDX-License-Identifier: Apache-2.0
"""The safetensors files of a Hugging Face folder, planned to the byte before any is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from megacpt.convert.described import write_json
from megacpt.convert.sources import DTYPES, SourceTensor
from megacpt.convert.stream import PIECE_BYTES, OutputFile, Piece, write_files
from megacpt.families.stored.files import INDEX, SINGLE

SHARD_BYTES_MAX = 5 * 10**9
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def planned(
    tensors: Mapping[str, SourceTensor],
    *,
    placed: Mapping[str, str],
    shard_bytes_max: int = SHARD_BYTES_MAX,
) -> list[OutputFile]:
    """Those of ``placed`` (tensor -> file), where that has every tensor; else as many as
    ``shard_bytes_max`` asks for."""
    files: dict[str, list[str]] = {}
    if tensors.keys() <= placed.keys():
        for name in tensors:
            files.setdefault(placed[name], []).append(name)
    else:
        shards = list(_shards(tensors, bytes_max=shard_bytes_max))
        for number, names in enumerate(shards):
            files[shard_name(number, of=len(shards))] = names
    return [
        _file(name, tensors={n: tensors[n] for n in names}) for name, names in sorted(files.items())
    ]


def write_tensors(
    tensors: Mapping[str, SourceTensor],
    *,
    folder: Path,
    placed: Mapping[str, str],
    shard_bytes_max: int = SHARD_BYTES_MAX,
) -> None:
    """Files and index, a few rows of each tensor in memory at a time."""
    files = planned(tensors, placed=placed, shard_bytes_max=shard_bytes_max)
    write_files(files, folder=folder)
    write_index(files, folder=folder)


def write_file(name: str, *, tensors: Mapping[str, SourceTensor], folder: Path) -> None:
    """One file of that name, whatever its size."""
    write_files([_file(name, tensors=tensors)], folder=folder)


def shard_name(number: int, *, of: int) -> str:
    return SINGLE if of == 1 else f"model-{number + 1:05d}-of-{of:05d}.safetensors"


def write_index(files: Sequence[OutputFile], *, folder: Path) -> None:
    """Which file holds which tensor; one file that is called as always needs none."""
    if [file.name for file in files] == [SINGLE]:
        return
    weight_map = {name: file.name for file in files for name in _names(file)}
    total = sum(piece.value_bytes for file in files for piece in file.pieces)
    write_json(
        folder / INDEX,
        content={"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


def _names(file: OutputFile) -> Iterator[str]:
    return (name for name in json.loads(file.head[8:]) if name != "__metadata__")


def _shards(tensors: Mapping[str, SourceTensor], *, bytes_max: int) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, tensor in tensors.items():
        size = tensor.bytes
        if names and held + size > bytes_max:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _file(file: str, *, tensors: Mapping[str, SourceTensor]) -> OutputFile:
    # Wider types first, so that every value is aligned.
    ordered = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    stated: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for name in ordered:
        starts[name], end = end, end + tensors[name].bytes
        stated[name] = {
            "dtype": _NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(stated, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    pieces = [
        piece for name in ordered for piece in _pieces(tensors[name], at=len(head) + starts[name])
    ]
    return OutputFile(name=file, pieces=pieces, head=head)


def _pieces(tensor: SourceTensor, *, at: int) -> Iterator[Piece]:
    for rows in tensor.pieces(PIECE_BYTES):
        piece = Piece(
            at=at,
            shape=(rows.stop - rows.start, *tensor.shape[1:]),
            dtype=tensor.dtype,
            fill=partial(_fill, tensor=tensor, start=rows.start),
            place=tensor.place(rows.start),
        )
        yield piece
        at += piece.bytes


def _fill(out: torch.Tensor, *, first: int, tensor: SourceTensor, start: int) -> None:
    tensor.read(out, first=start + first)
