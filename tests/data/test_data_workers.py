# SPDX-License-Identifier: Apache-2.0
"""Work on several processes: in order, errors raised here, deaths noticed, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from megacpt.data.workers import ITEMS_PER_WORKER, map_in_order
from megacpt.errors import DataError, EnvironmentError_


def slow_square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def fail_on_three(number: int) -> int:
    if number == 3:
        raise DataError("three")
    return number


def die_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def echo(content: bytes) -> bytes:
    return content


def my_workers() -> list[psutil.Process]:
    running = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in running if "spawn_main" in " ".join(p.cmdline())]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 2, 20])
def test_results_are_in_order(workers: int, count: int) -> None:
    expected = [(n, n * n) for n in range(count)]
    assert list(map_in_order(range(count), slow_square, workers=workers)) == expected
    assert my_workers() == []


def test_few_items_are_taken_ahead() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    results = map_in_order(numbers(), slow_square, workers=2)
    next(results)
    assert len(taken) <= 2 * ITEMS_PER_WORKER + 1
    results.close()
    assert my_workers() == []


def test_items_larger_than_a_pipe_go_both_ways() -> None:
    content = bytes(3 << 20)
    assert sum(len(r) for _, r in map_in_order([content] * 12, echo, workers=2)) == 12 * (3 << 20)


def test_an_error_is_raised_here() -> None:
    with pytest.raises(DataError, match="three"):
        list(map_in_order(range(9), fail_on_three, workers=2))
    assert my_workers() == []


@pytest.mark.parametrize("count", [4, 50])
def test_a_death_is_reported(count: int) -> None:
    """While results are awaited, and while items are still sent."""
    with pytest.raises(EnvironmentError_, match=r"a worker process died; .*use fewer workers"):
        list(map_in_order(range(count), die_on_three, workers=2))
    assert my_workers() == []


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_data_workers import map_in_order, my_workers, slow_square\n"
        "if __name__ == '__main__':\n"
        "    for _ in map_in_order(range(1000), slow_square, workers=2):\n"
        "        if len(my_workers()) == 2:\n"
        "            print(*(p.pid for p in my_workers()), flush=True)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2
    assert not any(psutil.pid_exists(pid) for pid in workers)
