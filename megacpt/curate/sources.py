# SPDX-License-Identifier: Apache-2.0
"""The raw text that is curated: sources of files, cut into pieces that are worked on apart."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from megacpt.corpus.formats import SourceFile
from megacpt.corpus.pieces import Piece, cut, piece_bytes
from megacpt.curate.rewrite.shapes import Shape


class Kind(enum.Enum):
    domain = "domain"
    general = "general"
    """Replayed beside the domain."""
    heldout = "heldout"
    """Measured with: nothing of it may be among the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    name: str
    kind: Kind
    files: tuple[SourceFile, ...]
    key: str = "text"
    shape: Shape | None = None
    """Of records that hold no text of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePiece:
    source: TextSource
    extents: Piece

    @property
    def bytes(self) -> int:
        return sum(extent.bytes for extent in self.extents)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    sources: tuple[TextSource, ...]
    piece_size: int | None = None
    """In bytes; None: by the size of the whole."""

    @cached_property
    def pieces(self) -> tuple[SourcePiece, ...]:
        """All of every file once, in order; the cut depends on the files alone."""
        size = self.piece_size or piece_bytes(self.num_bytes)
        return tuple(
            SourcePiece(source=source, extents=extents)
            for source in self.sources
            for extents in cut(source.files, size=size)
        )

    @property
    def num_bytes(self) -> int:
        return sum(file.bytes for source in self.sources for file in source.files)

    def to_json(self) -> dict[str, Any]:
        """What its pieces depend on."""
        return {
            "piece_size": self.piece_size,
            "sources": [
                {
                    "name": source.name,
                    "kind": source.kind.value,
                    "key": source.key,
                    "shape": source.shape.value if source.shape else None,
                    "files": [
                        asdict(file) | {"format": file.format.value} for file in source.files
                    ],
                }
                for source in self.sources
            ],
        }

    def pieces_of(self, names: Sequence[str]) -> Iterator[int]:
        """Numbers of the pieces of these sources."""
        return (n for n, piece in enumerate(self.pieces) if piece.source.name in names)
