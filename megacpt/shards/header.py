# SPDX-License-Identifier: Apache-2.0
"""What the first bytes of a .idx say: an index of token ids, a sound one of another kind, or none.

Megatron's format has relatives that begin alike. One that is whole but cannot be trained on is
refused by its name, with what turns it into one that can; it is not called damaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.errors import DataError
from megacpt.shards.format import HEADER, MAGIC, TYPE_CODES, VERSION

OTHER_CODES = {
    6: "floating-point numbers",
    7: "floating-point numbers",
    9: "uint32, which Megatron-DeepSpeed alone writes",
    10: "uint64, which Megatron-DeepSpeed alone writes",
}
TORCHNET_MAGIC = b"TNTIDX\x00\x00"
FAIRSEQ_HEADER_BYTES = 26
"""fairseq begins alike, but counts no documents."""
AGAIN = "write the ids again with megatron-core's IndexedDatasetBuilder(dtype=numpy.int32)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    dtype: np.dtype[np.integer[Any]]
    num_sequences: int
    num_bounds: int
    has_modes: bool
    """A multimodal index ends with a byte a sequence: 0 is text."""


def read_header(idx: npt.NDArray[np.uint8], *, prefix: Path) -> Header:
    """DataError unless ``idx`` is the whole of an index of token ids, by its size."""
    if bytes(idx[: len(TORCHNET_MAGIC)]) == TORCHNET_MAGIC:
        raise unsupported(
            prefix,
            kind="was written with --dataset-impl lazy or cached of an early Megatron-LM",
            remedy="tokenize the text again, or write it with --dataset-impl mmap",
        )
    if idx.size < HEADER.size:
        raise damaged(
            prefix, problem=f"has {idx.size} bytes, fewer than its header of {HEADER.size}"
        )
    magic, version, code, num_sequences, num_bounds = HEADER.unpack(idx[: HEADER.size].tobytes())
    if magic != MAGIC or version != VERSION:
        raise damaged(prefix, problem="does not begin as a Megatron index of version 1 does")
    if idx.size == FAIRSEQ_HEADER_BYTES + 12 * num_sequences:
        raise unsupported(
            prefix,
            kind="is an index of fairseq, which keeps no documents",
            remedy=AGAIN,
        )
    _require_ids(prefix, code=code)
    wanted = HEADER.size + 12 * num_sequences + 8 * num_bounds
    has_modes = 0 < num_sequences == idx.size - wanted
    if num_bounds < 1 or (idx.size != wanted and not has_modes):
        raise damaged(
            prefix,
            problem=f"has {idx.size} bytes, but {num_sequences} sequences and {num_bounds} "
            f"document bounds take {wanted}",
        )
    return Header(
        dtype=TYPE_CODES[code],
        num_sequences=num_sequences,
        num_bounds=num_bounds,
        has_modes=has_modes,
    )


def _require_ids(prefix: Path, *, code: int) -> None:
    if code in OTHER_CODES:
        raise unsupported(
            prefix, kind=f"has type code {code}: {OTHER_CODES[code]}, not token ids", remedy=AGAIN
        )
    if code not in TYPE_CODES:
        known = ", ".join(f"{c} ({d.name})" for c, d in TYPE_CODES.items())
        raise damaged(prefix, problem=f"has type code {code}, token ids have one of {known}")


def require_text(modes: npt.NDArray[np.uint8], *, prefix: Path) -> None:
    """DataError if a sequence of a multimodal index is something else than text."""
    if others := int(np.count_nonzero(modes)):
        raise unsupported(
            prefix,
            kind=f"is multimodal: {others} of its {modes.size} sequences have a mode other than 0, "
            "so what they hold (images, most often) are no token ids",
            remedy="write the sequences of mode 0 alone with megatron-core's IndexedDatasetBuilder",
        )


def damaged(prefix: Path, *, problem: str) -> DataError:
    return DataError(
        f"{prefix}.idx {problem}; the files are cut short, changed or of two different "
        "shards: copy both again, or tokenize the text again."
    )


def unsupported(prefix: Path, *, kind: str, remedy: str) -> DataError:
    return DataError(f"{prefix}.idx {kind}; it is valid, but megacpt does not read it: {remedy}.")
