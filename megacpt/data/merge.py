# SPDX-License-Identifier: Apache-2.0
"""Join the finished pieces of PREFIX.pieces/ into PREFIX.bin, .idx and .json."""

from __future__ import annotations

from pathlib import Path

from megacpt.data.manifest import Manifest
from megacpt.data.progress import ProgressCallback


def merge(output_prefix: Path | str, *, progress: ProgressCallback | None = None) -> Manifest:
    """Publish the shard and remove PREFIX.pieces/; DataError names pieces that are missing."""
    raise NotImplementedError
