# SPDX-License-Identifier: Apache-2.0
"""The settings of deduplication."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from megacpt.config.limits import Limits, limited

SHARE = Limits(above=0, at_most=1, remedy="use a number up to 1, such as 0.8")
SHINGLE_WORDS = Limits(at_least=1, at_most=50, remedy="use 5, or 1 to 50")


class Keep(enum.Enum):
    longest = "longest"
    """Of equally long ones that with the smallest hash, whatever the order of files."""
    first = "first"
    """In the order of sources and files."""
    best = "best"
    """That with the largest number under ``score_key``; then the longest."""


@dataclass(kw_only=True, slots=True)
class NearConfig:
    threshold: float = limited(0.8, limits=SHARE)
    """Share of shingles that two documents have in common, of all that either has (Jaccard), from
    which on one is left out; candidates are found by MinHash and then compared exactly."""
    words: int = limited(5, limits=SHINGLE_WORDS)
    """Of a shingle; of text without blanks between words, characters."""
    recall: float = limited(
        0.97, limits=Limits(above=0, below=1, remedy="use a share below 1, such as 0.97")
    )
    """Of pairs 0.05 above the threshold, at least this share is found; sets bands and rows."""
    chains: bool = False
    """Leave out C where C is like B and B like A, though C is not like A."""


@dataclass(kw_only=True, slots=True)
class LinesConfig:
    words: int = limited(10, limits=SHINGLE_WORDS)
    """A line of fewer may be repeated."""
    share: float = limited(0.5, limits=SHARE)
    """A document of which more than this share of the words lies in repeated lines goes as a whole;
    of others these lines go."""


@dataclass(kw_only=True, slots=True)
class DeduplicateConfig:
    exact: bool = True
    """Leave out documents of the same words, whatever case, punctuation and spaces are."""
    near: NearConfig | None = field(default_factory=NearConfig)
    """null: none."""
    lines: LinesConfig | None = None
    """Leave out lines that were there before, in the document or in another."""
    keep: Keep = Keep.longest
    """Which of several is kept; one of a held-out set before all others."""
    score_key: str = "score"
    """For ``keep=best``."""
    memory_mib: int = limited(1024, limits=Limits(at_least=16, remedy="use 64 or more"))
    """Of signatures in memory at once; the rest waits on the disk."""
