# SPDX-License-Identifier: Apache-2.0
"""PREFIX.mask: which tokens of a shard are learned as targets.

One byte for each token of PREFIX.bin, in its order. Of conversations: 1 where the assistant said
it, 0 elsewhere; of text: 0 where a curation has said that it is not learned. It
lies beside files that any reader of Megatron's format takes; the manifest names its checksum, and a
shard without one there is learned whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

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


def num_learned(mask_T: LossMask) -> int:
    return int(mask_T.sum(dtype=np.int64))


def open_mask(prefix: Path | str, *, manifest: Manifest | None) -> LossMask | None:
    """The mask of a shard, memory-mapped; None where all its tokens are targets."""
    if manifest is None or not manifest.mask_sha256:
        return None
    path = mask_path(prefix)
    try:
        mask_T = np.frombuffer(memoryview(_C.MappedFile(str(path))), dtype=np.uint8)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), but {prefix}.json says that not all of "
            "this shard is learned; restore it, or tokenize again."
        ) from error
    if mask_T.size != manifest.tokens:
        raise DataError(
            f"{path} has {mask_T.size} bytes, but the shard has {manifest.tokens} tokens, one byte "
            "each; restore it, or tokenize again."
        )
    return mask_T
