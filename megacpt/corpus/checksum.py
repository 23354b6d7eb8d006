# SPDX-License-Identifier: Apache-2.0
"""A checksum of a file that several workers can make together.

It is the sha256 of the file; of a file over 8 MiB the sha256 of the sha256s (32 bytes each) of its
parts of 8 MiB, one after another. In a shell, of a large file:

    split -b 8M --filter='sha256sum | cut -c-64' FILE | xxd -r -p | sha256sum
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

LEAF_BYTES = 1 << 23


class Leaves:
    """Checksums of the 8 MiB parts of what is given, which begins at a multiple of 8 MiB."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._open = hashlib.sha256()
        self._count = 0

    def update(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        while len(view):
            taken = view[: LEAF_BYTES - self._count]
            self._open.update(taken)
            self._count += len(taken)
            view = view[len(taken) :]
            if self._count == LEAF_BYTES:
                self._finished.append(self._open.hexdigest())
                self._open, self._count = hashlib.sha256(), 0

    def hexdigests(self) -> list[str]:
        return [*self._finished, self._open.hexdigest()] if self._count else [*self._finished]


def root(leaves: Sequence[str]) -> str:
    """Checksum of a file from all its leaves, in order."""
    if len(leaves) == 1:
        return leaves[0]
    return hashlib.sha256(b"".join(map(bytes.fromhex, leaves))).hexdigest()


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    leaves = Leaves()
    with path.open("rb") as stream:
        while content := stream.read(1 << 20):
            leaves.update(content)
    return root(leaves.hexdigests())
