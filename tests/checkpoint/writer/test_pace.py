# SPDX-License-Identifier: Apache-2.0
"""A part of a core on average, by clocks of the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megacpt.checkpoint.writer import pace
from megacpt.checkpoint.writer.pace import LONGEST_REST_S, SHORTEST_REST_S, Pace


class Clock:
    """Stands for the module ``time``, where time passes as the test says."""

    def __init__(self) -> None:
        self.now_s = self.cpu_s = 0.0
        self.rests_s: list[float] = []

    def work(self, seconds: float, *, others_s: float = 0.0) -> None:
        """Beside programs that have the core for ``others_s``."""
        self.cpu_s += seconds
        self.now_s += seconds + others_s

    def sleep(self, seconds: float) -> None:
        self.rests_s.append(seconds)
        self.now_s += seconds

    @property
    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            monotonic=lambda: self.now_s, process_time=lambda: self.cpu_s, sleep=self.sleep
        )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock.module)
    return clock


def paced(clock: Clock, *, cores: float, pieces: int, others_s: float = 0.0) -> Pace:
    """Work of a millisecond a piece."""
    found = Pace(cores=cores)
    found.begin()
    found.start()
    for _ in range(pieces):
        clock.work(0.001, others_s=others_s)
        found.rest()
    return found


def test_work_takes_its_part_of_a_core(clock: Clock) -> None:
    found = paced(clock, cores=0.1, pieces=1000)
    # A second of work in ten; the shortest rests are left out.
    assert 10 - SHORTEST_REST_S <= clock.now_s <= 10.001
    assert found.rested_s == pytest.approx(sum(clock.rests_s))
    assert max(clock.rests_s) <= LONGEST_REST_S
    assert min(clock.rests_s) > SHORTEST_REST_S


def test_time_that_others_had_the_core_is_no_debt(clock: Clock) -> None:
    paced(clock, cores=0.1, pieces=1000, others_s=0.009)
    assert not clock.rests_s
    assert clock.now_s == pytest.approx(10)


def test_a_whole_core_has_no_rest(clock: Clock) -> None:
    paced(clock, cores=1.0, pieces=1000)
    assert not clock.rests_s


def test_nobody_rests_once_somebody_waits(clock: Clock) -> None:
    found = paced(clock, cores=0.1, pieces=100)
    rests = len(clock.rests_s)
    found.hurry()
    clock.work(1.0)
    found.rest()
    assert len(clock.rests_s) == rests > 0
    found.begin()
    found.rest()
    assert len(clock.rests_s) == rests + 1
