# SPDX-License-Identifier: Apache-2.0
"""Which documents are left out because another one stays.

A document goes if one of a lower priority stays that has the same words, or that shares a bucket
with it and is like it. This has one answer, in whatever order buckets are looked at: where a
document went because of one that went later, it is looked at again, until nobody is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from megacpt.curate.deduplicate.buckets import Bucketed, bucketed, deal
from megacpt.curate.deduplicate.files import Array
from megacpt.curate.deduplicate.sketches import HELDOUT_BITS, Sketches

STAYS, EXACT, NEAR = 0, 1, 2
"""Of a document: what became of it."""
LOOKED_AT_ONCE = 1 << 22
"""Documents, of which what becomes of them is on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Of every document, on the disk."""

    rules: Array
    """uint8: STAYS, EXACT or NEAR."""
    like: Array
    """int64: the one that stays instead; of those that stay of no meaning."""

    @classmethod
    def begin(cls, folder: Path, *, num_documents: int) -> State:
        shape = (max(num_documents, 1),)
        return cls(
            rules=np.memmap(folder / "rules", np.uint8, mode="w+", shape=shape),
            like=np.memmap(folder / "like", np.int64, mode="w+", shape=shape),
        )

    def drop_all_but(
        self, is_first: Array, *, documents: Array, priorities: Array, rule: int
    ) -> None:
        """Of each run of documents the first stays, and held-out ones do."""
        first = documents[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
        goes = ~is_first & (priorities >= np.uint64(1 << HELDOUT_BITS))
        self.rules[documents[goes]] = rule
        self.like[documents[goes]] = first[goes]

    def flush(self) -> None:
        self.rules.flush()  # type: ignore[attr-defined]
        self.like.flush()  # type: ignore[attr-defined]

    @classmethod
    def read(cls, folder: Path) -> State:
        return cls(
            rules=np.memmap(folder / "rules", np.uint8, mode="r"),
            like=np.memmap(folder / "like", np.int64, mode="r"),
        )


def drop_exact(sketches: Sketches, *, state: State, folder: Path, memory_bytes: int) -> None:
    """Of documents of the same words the one of lowest priority stays, and held-out ones do."""
    files = deal(
        _numbered(sketches, name="exact", column=0),
        folder=folder,
        num_documents=sketches.num_documents,
        memory_bytes=memory_bytes,
    )
    for path in files:
        found = bucketed(path, rules=state.rules)
        hashes = sketches.whole("exact")[found.members]
        priorities = sketches.priorities(found.members)
        order = np.lexsort((found.members, priorities, hashes[:, 1], hashes[:, 0]))
        documents, priorities, hashes = found.members[order], priorities[order], hashes[order]
        if not len(documents):
            continue
        is_first = np.concatenate([[True], (hashes[1:] != hashes[:-1]).any(axis=1)])
        state.drop_all_but(is_first, documents=documents, priorities=priorities, rule=EXACT)
    shutil.rmtree(folder)


def _numbered(sketches: Sketches, *, name: str, column: int) -> Iterator[tuple[Array, Array]]:
    for first, values in sketches.arrays(name):
        yield values[:, column], np.arange(first, first + len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """Finds documents that are like others."""

    sketches: Sketches
    state: State
    folder: Path
    bands: int
    threshold: float
    memory_bytes: int

    def drop(self, report: Callable[[], None] = lambda: None) -> None:
        """Each goes only for one that is itself like it, and stays."""
        files, shingles = self._deal(), self.sketches.shingle_files()
        orphans = np.memmap(
            self.folder / "orphans", np.uint8, mode="w+", shape=self.state.rules.shape
        )
        num_orphans: int | None = None
        while num_orphans != 0:
            for found in self._buckets(files, among=None if num_orphans is None else orphans):
                shingles.drop_alike(
                    found.members,
                    priorities=self.sketches.priorities(found.members),
                    ends=found.ends,
                    threshold=self.threshold,
                    rule=NEAR,
                    rules=self.state.rules,
                    like=self.state.like,
                )
                report()
            num_orphans = self._let_stay(orphans)
        shutil.rmtree(self.folder)

    def _buckets(self, files: Sequence[Path], *, among: Array | None = None) -> Iterator[Bucketed]:
        """Those of the next file are sorted meanwhile: who has gone by then may be in them."""
        take = partial(bucketed, rules=self.state.rules, among=among)
        if among is not None:  # They are sorted, and few are taken.
            yield from map(take, files)
            return
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(take, files[0])
            for path in files[1:]:
                found, following = following.result(), pool.submit(take, path)
                yield found
            yield following.result()

    def _let_stay(self, orphans: Array) -> int:
        """Those that went for one that went, of which this is the number."""
        rules, like = self.state.rules, self.state.like
        parts = [slice(n, n + LOOKED_AT_ONCE) for n in range(0, len(rules), LOOKED_AT_ONCE)]
        for part in parts:
            near = np.flatnonzero(rules[part] == NEAR)
            orphans[part] = 0
            orphans[part][near] = rules[like[part][near]] != STAYS
        for part in parts:
            rules[part][np.flatnonzero(orphans[part])] = STAYS
        return sum(int(np.count_nonzero(orphans[part])) for part in parts)

    def drop_chains(self, report: Callable[[], None] = lambda: None) -> None:
        """Of all that hang together the one of lowest priority stays, and held-out ones do."""
        shingles = self.sketches.shingle_files()
        parents = np.memmap(
            self.folder.with_suffix(".parents"),
            np.int64,
            mode="w+",
            shape=self.state.rules.shape,
        )
        parents[:] = np.arange(len(parents))
        for found in self._buckets(self._deal()):
            shingles.join_alike(
                found.members,
                priorities=self.sketches.priorities(found.members),
                ends=found.ends,
                threshold=self.threshold,
                rules=self.state.rules,
                parents=parents,
            )
            report()
        self._drop_all_but_one(parents)
        shutil.rmtree(self.folder)

    def _drop_all_but_one(self, parents: Array) -> None:
        roots = np.asarray(parents).copy()
        while (above := roots[roots]).tobytes() != roots.tobytes():
            roots = above
        joined = np.flatnonzero(roots != np.arange(len(roots)))
        members = np.union1d(joined, roots[joined])
        priorities = self.sketches.priorities(members)
        order = np.lexsort((members, priorities, roots[members]))
        members, priorities = members[order], priorities[order]
        of = roots[members]
        if not len(members):
            return
        is_first = np.concatenate([[True], of[1:] != of[:-1]])
        self.state.drop_all_but(is_first, documents=members, priorities=priorities, rule=NEAR)

    def _deal(self) -> list[Path]:
        """By band, and within it by key."""
        return [
            path
            for band in range(self.bands)
            for path in deal(
                self._keys(band),
                folder=self.folder / f"{band:03}",
                num_documents=self.sketches.num_documents,
                memory_bytes=self.memory_bytes,
            )
        ]

    def _keys(self, band: int) -> Iterator[tuple[Array, Array]]:
        """Of documents that stay and have shingles."""
        ends = self.sketches.whole("ends")
        for first, values in self.sketches.arrays("bands"):
            here = slice(first, first + len(values))
            has = np.diff(ends[here], prepend=0) > 0
            has &= self.state.rules[here] == STAYS
            (mine,) = np.nonzero(has)
            yield values[mine, band], first + mine
