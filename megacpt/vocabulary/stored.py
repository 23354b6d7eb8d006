# SPDX-License-Identifier: Apache-2.0
"""A safetensors file with more rows in some of its tensors: all other bytes are copied as they are,
a few at a time, so that no tensor is ever in memory, and of no type need anything be known."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

BYTES_AT_ONCE = 1 << 23
METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRows:
    """Rows from ``first`` on, in the place of those that are there and behind them."""

    first: int
    content: bytes
    """Of the tensor's type."""


def write_grown(source: Path, *, target: Path, rows: Mapping[str, NewRows]) -> int:
    """Write ``target``, on the disk, with ``rows`` by the name of the tensor; how many bytes of
    values it has more."""
    with source.open("rb") as old, target.open("wb") as new:
        (length,) = _LENGTH.unpack(old.read(_LENGTH.size))
        header: dict[str, Any] = json.loads(old.read(length))
        begin = _LENGTH.size + length
        tensors = sorted(header.keys() - {METADATA}, key=lambda n: header[n]["data_offsets"])
        grown = _grown(header, names=tensors, rows=rows)
        new.write(_encoded(grown))
        for name in tensors:
            start, stop = (begin + offset for offset in header[name]["data_offsets"])
            old.seek(start)
            if name in rows:
                _copy(old, target=new, num_bytes=rows[name].first * _row_bytes(header[name]))
                new.write(rows[name].content)
                old.seek(min(old.tell() + len(rows[name].content), stop))
            _copy(old, target=new, num_bytes=stop - old.tell())
        new.flush()
        os.fsync(new.fileno())
    return sum(_num_bytes(grown[name]) - _num_bytes(header[name]) for name in tensors)


def _grown(
    header: dict[str, Any], *, names: list[str], rows: Mapping[str, NewRows]
) -> dict[str, Any]:
    """The header with the new shapes and places."""
    made = {METADATA: header[METADATA]} if METADATA in header else {}
    offset = 0
    for name in names:
        about = dict(header[name])
        num_bytes = _num_bytes(about)
        if name in rows:
            row_bytes = _row_bytes(about)
            size = rows[name].first + len(rows[name].content) // row_bytes
            about["shape"] = [max(about["shape"][0], size), *about["shape"][1:]]
            num_bytes = about["shape"][0] * row_bytes
        about["data_offsets"] = [offset, offset + num_bytes]
        offset += num_bytes
        made[name] = about
    return made


def _encoded(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # So that values are aligned, as the format advises.
    text += b" " * (-len(text) % _LENGTH.size)
    return _LENGTH.pack(len(text)) + text


def _num_bytes(about: Mapping[str, Any]) -> int:
    start, stop = about["data_offsets"]
    return int(stop - start)


def _row_bytes(about: Mapping[str, Any]) -> int:
    return _num_bytes(about) // int(about["shape"][0])


def _copy(source: BinaryIO, *, target: BinaryIO, num_bytes: int) -> None:
    while num_bytes > 0:
        chunk = source.read(min(BYTES_AT_ONCE, num_bytes))
        if not chunk:
            raise EOFError(f"{source.name} ends {num_bytes} bytes before its last tensor")
        target.write(chunk)
        num_bytes -= len(chunk)
