# SPDX-License-Identifier: Apache-2.0
"""Which rank is slow, and what counts as its own time."""

from __future__ import annotations

import time

import torch

from megacpt.device.stopwatch import Stopwatch
from megacpt.device.timers import Timers
from megacpt.train.guard.straggler import WINDOW_STEPS, Stragglers

HOSTS = ["n1", "n1", "n2", "n2"]


def after(*steps: list[float], factor: float = 1.5) -> list[bool]:
    """Whether someone straggles, after each step."""
    stragglers = Stragglers(HOSTS[: len(steps[0])], factor=factor)
    return [stragglers.add(times)["straggles"] for times in steps]


def test_the_slowest_rank_is_named_with_its_host() -> None:
    stragglers = Stragglers(HOSTS, factor=1.5)
    for _ in range(WINDOW_STEPS):
        found = stragglers.add([1.0, 1.1, 2.0, 1.2])
    assert found == {
        "median_s": 1.1,
        "slowest_s": 2.0,
        "slowest_rank": 2,
        "slowest_host": "n2",
        "straggles": True,
    }


def test_one_slow_step_makes_no_straggler() -> None:
    even, slow = [1.0, 1.0, 1.0, 1.0], [1.0, 9.0, 1.0, 1.0]
    assert not any(after(*[even] * 8, slow, *[even] * 8))
    assert after(*[even] * 8, *[slow] * 8)[-1]


def test_nobody_is_named_before_the_window_is_full() -> None:
    slow = [1.0, 9.0]
    assert after(*[slow] * WINDOW_STEPS) == [False] * (WINDOW_STEPS - 1) + [True]


def test_of_two_ranks_one_can_be_twice_as_slow() -> None:
    assert after(*[[1.0, 2.1]] * WINDOW_STEPS, factor=2.0)[-1]
    assert not after(*[[1.0, 1.9]] * WINDOW_STEPS, factor=2.0)[-1]


def test_only_forward_and_backward_passes_count_and_each_is_a_sign_of_life() -> None:
    signs: list[str] = []
    stopwatch = Stopwatch(torch.device("cpu"))
    timers = Timers(stopwatch, beat=lambda: signs.append("alive"))
    for name, wait_s in {
        "forward-compute": 0.02,
        "forward-recv": 0.2,
        "backward-compute": 0,
    }.items():
        timers(name, log_level=2).start(barrier=True)
        time.sleep(wait_s)
        timers(name).stop()
    assert signs == ["alive"] * 2
    assert 0.02 <= stopwatch.total_s() < 0.2
    stopwatch.reset()
    assert stopwatch.total_s() == 0.0
