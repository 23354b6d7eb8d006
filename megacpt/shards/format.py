# SPDX-License-Identifier: Apache-2.0
"""The constants of Megatron's .idx format; megacpt.shards.reader describes the layout."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, type code, number of sequences, number of document bounds."""
TYPE_CODES: dict[int, np.dtype[np.integer[Any]]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}


def choose_dtype(vocab_size: int) -> np.dtype[np.integer[Any]]:
    """uint16 for vocabularies below 65,500, int32 for others: Megatron's own choice."""
    return TYPE_CODES[8] if vocab_size < 65_500 else TYPE_CODES[4]


def code_of(dtype: np.dtype[np.integer[Any]]) -> int:
    return next(code for code, known in TYPE_CODES.items() if known == dtype)
