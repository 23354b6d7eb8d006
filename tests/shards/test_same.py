# SPDX-License-Identifier: Apache-2.0
"""Shards are the same by what they hold, whatever leads to them; NumPy says what they hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from megacpt.shards import same
from megacpt.shards.reader import write_shard
from megacpt.shards.same import Content
from megacpt.shards.writer import ShardWriter

TOKENS = np.random.default_rng(5).integers(0, 200, size=300_000)
"""More than are compared one by one."""


def shard(
    prefix: Path, *, tokens: npt.NDArray[Any] = TOKENS, dtype: str = "uint16", cut: int = 7
) -> Path:
    prefix.parent.mkdir(exist_ok=True)
    with ShardWriter(prefix, dtype=np.dtype(dtype)) as writer:
        for document in np.array_split(tokens, cut):
            writer.add(document)
        writer.publish()
    return prefix


def linked(how: Callable[[Path, Path], object]) -> Callable[[Path], Path]:
    def make(prefix: Path) -> Path:
        for kind in ("bin", "idx"):
            how(Path(f"{prefix}.{kind}"), prefix.with_name(f"other.{kind}"))
        return prefix.with_name("other")

    return make


def by_a_linked_folder(prefix: Path) -> Path:
    (prefix.parent / "folder").symlink_to(prefix.parent)
    return prefix.parent / "folder" / prefix.name


SAME: dict[str, Callable[[Path], Path]] = {
    "itself": lambda prefix: prefix,
    "another way": lambda prefix: prefix.parent / ".." / prefix.parent.name / prefix.name,
    "symbolic links": linked(lambda old, new: new.symlink_to(old)),
    "hard links": linked(lambda old, new: os.link(old, new)),
    "a copy": linked(lambda old, new: shutil.copy(old, new)),
    "a linked folder": by_a_linked_folder,
    "another type": lambda prefix: shard(prefix.with_name("wide"), dtype="int64"),
    "one byte an id": lambda prefix: shard(prefix.with_name("small"), dtype="uint8"),
    "other documents": lambda prefix: shard(prefix.with_name("cut"), cut=900),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_tokens_are_found_by_any_way(tmp_path: Path, name: str) -> None:
    prefix = shard(tmp_path / "data" / "law")
    other = SAME[name](prefix)
    assert Content.open(prefix).has_tokens_of(Content.open(other))
    assert Content.open(other).has_tokens_of(Content.open(prefix))


@pytest.mark.parametrize("at", [0, 4_095, TOKENS.size // 63, TOKENS.size - 1])
def test_other_tokens_of_the_same_number_are_others(tmp_path: Path, at: int) -> None:
    tokens = TOKENS.copy()
    tokens[at : at + 9_000] = np.roll(tokens[at : at + 9_000], 1)
    tokens[at] += 1
    first, second = shard(tmp_path / "a"), shard(tmp_path / "b", tokens=tokens)
    assert not np.array_equal(TOKENS, tokens)
    assert not Content.open(first).has_tokens_of(Content.open(second))


@pytest.mark.parametrize("at", range(0, 50, 7))
def test_every_token_of_a_small_shard_counts(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same, "SPAN", 4)
    tokens = TOKENS[:50].copy()
    write_shard(tmp_path / "a", documents=[tokens], vocab_size=300)
    tokens[at] += 1
    write_shard(tmp_path / "b", documents=[tokens], vocab_size=300)
    write_shard(tmp_path / "c", documents=[tokens[:-1]], vocab_size=300)
    first = Content.open(tmp_path / "a")
    assert not first.has_tokens_of(Content.open(tmp_path / "b"))
    assert not first.has_tokens_of(Content.open(tmp_path / "c"))
    assert first.has_tokens_of(first)
