# SPDX-License-Identifier: Apache-2.0
"""Results come one by one in the items' order, from any number of threads; errors end it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from megacpt.corpus.workers.in_order import AHEAD, map_in_order


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_results_are_in_order_and_one_at_a_time(threads: int, count: int) -> None:
    rng, inside, found = random.Random(3), threading.Lock(), []

    def work(item: int) -> int:
        time.sleep(rng.random() / 2000)
        return item * 2

    def settle(result: int) -> None:
        assert inside.acquire(blocking=False)
        found.append(result)
        time.sleep(rng.random() / 2000)
        inside.release()

    map_in_order(range(count), work=work, settle=settle, threads=threads)
    assert found == [2 * n for n in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_slow_item_holds_up_the_others(threads: int) -> None:
    """So that the results in memory are bounded."""
    release, taken = threading.Event(), []

    def items() -> Iterator[int]:
        for n in range(200):
            taken.append(n)
            yield n

    def work(item: int) -> int:
        if item == 0 and threads > 1:
            release.wait(10)
        return item

    threading.Timer(0.3, lambda: (counts.append(len(taken)), release.set())).start()
    counts: list[int] = []
    map_in_order(items(), work=work, settle=lambda _: None, threads=threads)
    assert len(taken) == 200
    assert threads == 1 or counts[0] <= (AHEAD + 1) * threads


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", ["items", "work", "settle"])
def test_an_error_anywhere_is_raised(threads: int, place: str) -> None:
    def fail(here: str, n: int) -> int:
        if here == place and n == 20:
            raise ValueError(f"{place} {n}")
        return n

    items = (fail("items", n) for n in range(1000))
    before, settled = threading.active_count(), list[int]()
    with pytest.raises(ValueError, match=f"{place} 20"):
        map_in_order(
            items,
            work=lambda n: fail("work", n),
            settle=lambda n: settled.append(fail("settle", n)),
            threads=threads,
        )
    assert threading.active_count() == before
