# SPDX-License-Identifier: Apache-2.0
"""Reading ahead changes when a batch is read and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from megacpt.errors import DataError
from megacpt.train.prefetch import Prefetcher

LAST = 9
SOON_S = 10.0


class Reader:
    """Reads step n as n * n and keeps the steps it was asked for."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, step: int) -> int:
        self.read.append(step)
        return step * step


class BrokenReader(Reader):
    def __init__(self, *, at: int) -> None:
        super().__init__()
        self.at = at

    def __call__(self, step: int) -> int:
        if step == self.at:
            raise DataError(f"step {step} holds token 7 of a vocabulary of 5; restore the shard.")
        return super().__call__(step)


def soon(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + SOON_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.001)
    return condition()


def reading_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("first", [1, 4, LAST, LAST + 1])
@pytest.mark.parametrize("num_ahead", [0, 1, 2, 20])
def test_each_step_is_read_once_and_in_order(num_ahead: int, first: int) -> None:
    reader, steps = Reader(), range(first, LAST + 1)
    with Prefetcher(reader, first=first, last=LAST, num_ahead=num_ahead) as items:
        assert [items.take(step) for step in steps] == [step * step for step in steps]
    assert reader.read == list(steps)


@pytest.mark.parametrize("num_ahead", [1, 3])
def test_as_many_steps_as_asked_for_are_read_ahead_and_no_more(num_ahead: int) -> None:
    reader = Reader()
    with Prefetcher(reader, first=1, last=LAST, num_ahead=num_ahead) as items:
        for step in range(1, 5):
            ahead = list(range(1, step + num_ahead))
            assert soon(lambda ahead=ahead: reader.read == ahead)
            items.take(step)


def test_nothing_is_read_before_it_is_needed_with_no_step_ahead() -> None:
    reader = Reader()
    with Prefetcher(reader, first=1, last=LAST, num_ahead=0) as items:
        assert (reader.read, reading_threads()) == ([], [])
        items.take(1)
        assert reader.read == [1]


@pytest.mark.parametrize("num_ahead", [0, 2, 20])
def test_an_error_is_raised_as_it_was_at_its_own_step(num_ahead: int) -> None:
    reader = BrokenReader(at=3)
    with Prefetcher(reader, first=1, last=LAST, num_ahead=num_ahead) as items:
        assert [items.take(step) for step in (1, 2)] == [1, 4]
        with pytest.raises(DataError, match="step 3 holds token 7 of a vocabulary of 5"):
            items.take(3)


def test_no_thread_is_left_after_the_end() -> None:
    with Prefetcher(Reader(), first=1, last=LAST, num_ahead=2) as items:
        items.take(1)
        assert len(reading_threads()) == 1
    assert reading_threads() == []


def test_no_thread_is_left_after_an_error_in_the_loop() -> None:
    def loop() -> None:
        with Prefetcher(BrokenReader(at=3), first=1, last=LAST, num_ahead=2) as items:
            for step in range(1, LAST + 1):
                items.take(step)

    with pytest.raises(DataError):
        loop()
    assert reading_threads() == []


def test_what_was_not_begun_is_not_read_after_the_end() -> None:
    """One slow read is waited for; those behind it in the queue are dropped."""
    began, go_on, read = threading.Event(), threading.Event(), []

    def slow(step: int) -> int:
        began.set()
        go_on.wait(SOON_S)
        read.append(step)
        return step

    with Prefetcher(slow, first=1, last=LAST, num_ahead=5):
        assert began.wait(SOON_S)
        threading.Timer(0.05, go_on.set).start()
    assert read == [1]
