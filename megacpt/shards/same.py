# SPDX-License-Identifier: Apache-2.0
"""Whether two token shards hold the same text, whatever their files are called.

A shard may be reached by another path, through links, or be a copy with or without its manifest;
it may hold its ids in another type or its documents in other bounds. Reads a bounded number of
pages, and none of the tokens where the numbers of tokens differ.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from megacpt.shards.manifest import Manifest, read_shard_manifest
from megacpt.shards.reader import IndexedShard

SPANS = 64
SPAN = 4096
"""Tokens compared at each of SPANS equal distances; shards of no more than all these are compared
whole."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """A shard, opened to be compared with others."""

    shard: IndexedShard
    manifest: Manifest | None

    @classmethod
    def open(cls, prefix: Path | str, *, vocab_size: int | None = None) -> Content:
        return cls(
            shard=IndexedShard(prefix, vocab_size=vocab_size), manifest=read_shard_manifest(prefix)
        )

    @cached_property
    def inputs(self) -> dict[tuple[str, str], str]:
        """Path of each file it was made from, by checksum and by where in it the text is."""
        manifest = self.manifest
        if manifest is None:
            return {}
        return {(file.sha256, manifest.key): file.path for file in manifest.inputs if file.bytes}

    @cached_property
    def raw(self) -> dict[str, str]:
        """The same of what was there before it was curated, by checksum."""
        curated = self.manifest.curated if self.manifest else ()
        files = [(file.sha256, file.path) for origin in curated for file in origin.inputs]
        return dict(files) or {sha256: path for (sha256, _), path in self.inputs.items()}

    def has_tokens_of(self, other: Content) -> bool:
        """Whether both hold the same ids in the same order."""
        if self.shard.num_tokens != other.shard.num_tokens:
            return False
        if os.path.samefile(f"{self.shard.prefix}.bin", f"{other.shard.prefix}.bin"):
            return True
        mine, theirs = self.manifest, other.manifest
        if mine is not None and theirs is not None and mine.dtype == theirs.dtype:
            return mine.bin_sha256 == theirs.bin_sha256
        return all(self._equals(other, start=start) for start in self._starts())

    def _starts(self) -> list[int]:
        tokens = self.shard.num_tokens
        if tokens <= SPANS * SPAN:
            return list(range(0, tokens, SPAN))
        return [(tokens - SPAN) * n // (SPANS - 1) for n in range(SPANS)]

    def _equals(self, other: Content, *, start: int) -> bool:
        stop = min(start + SPAN, self.shard.num_tokens)
        mine, theirs = (content.shard.span(start, stop=stop) for content in (self, other))
        return np.array_equal(mine, theirs)
