# SPDX-License-Identifier: Apache-2.0
"""Garbage is collected after the steps it should be, and at no other time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from megacpt.train.garbage import collecting_every


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """Generation of each collection that Python starts."""
    found: list[int] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


def make_garbage(count: int = 20_000) -> None:
    """Lists that hold themselves: only a collection frees them."""
    for _ in range(count):
        loop: list[Any] = []
        loop.append(loop)


def test_all_ranks_collect_after_the_same_steps(collections: list[int]) -> None:
    with collecting_every(3) as after:
        collections.clear()
        seen = []
        for step in range(5, 14):
            make_garbage()
            after(step)
            seen += [step] * len(collections)
            collections.clear()
    assert seen == [6, 9, 12]


def test_what_was_there_before_is_not_looked_at_again() -> None:
    before = gc.get_freeze_count()
    with collecting_every(10):
        assert not gc.isenabled()
        assert gc.get_freeze_count() > before
        assert sum(map(len, (gc.get_objects(n) for n in range(3)))) < 1000
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_zero_leaves_python_alone(collections: list[int]) -> None:
    with collecting_every(0) as after:
        make_garbage()
        after(1)
        assert gc.isenabled()
    assert collections


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with collecting_every(1) as after:
            after(1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_error_leaves_the_collector_on() -> None:
    with pytest.raises(RuntimeError), collecting_every(1):
        raise RuntimeError
    assert gc.isenabled()
