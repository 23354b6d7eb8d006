# SPDX-License-Identifier: Apache-2.0
"""PREFIX.mask: which tokens of a shard of conversations are learned as targets.

One byte for each token of PREFIX.bin, in its order: 1 where the assistant said it, 0 elsewhere. It
lies beside files that any reader of Megatron's format takes; the manifest names its checksum, and a
shard without one there is learned whole.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.errors import DataError
from megacpt.shards.manifest import Manifest
from megacpt.shards.writer import MASK

LossMask: TypeAlias = npt.NDArray[np.uint8]
"""T: tokens of the shard."""


def mask_path(prefix: Path | str) -> Path:
    return Path(f"{prefix}.{MASK}")


def open_mask(prefix: Path | str, *, manifest: Manifest | None) -> LossMask | None:
    """The mask of a shard, memory-mapped; None where all its tokens are targets."""
    if manifest is None or not manifest.mask_sha256:
        return None
    path = mask_path(prefix)
    try:
        mask_T = np.frombuffer(memoryview(_C.MappedFile(str(path))), dtype=np.uint8)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), but {prefix}.json says that only what the "
            "assistant says is learned of this shard; restore it, or tokenize the conversations "
            "again."
        ) from error
    if mask_T.size != manifest.tokens:
        raise DataError(
            f"{path} has {mask_T.size} bytes, but the shard has {manifest.tokens} tokens, one byte "
            "each; restore it, or tokenize the conversations again."
        )
    return mask_T


class MaskWriter:
    """``with MaskWriter(path) as w: w.add(mask_T); w.finish()``, some tokens at a time."""

    def __init__(self, path: Path) -> None:
        self._stream: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()

    def __enter__(self) -> MaskWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def add(self, mask_T: LossMask) -> None:
        self._stream.write(mask_T.data)
        self._digest.update(mask_T.data)

    def finish(self) -> None:
        """Let it survive a power cut."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
