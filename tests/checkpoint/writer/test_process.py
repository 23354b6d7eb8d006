# SPDX-License-Identifier: Apache-2.0
"""The process beside a rank: it sees the tensors as they were, and takes little of a core."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from megacpt.checkpoint.writer.pace import LONGEST_REST_S
from megacpt.checkpoint.writer.process import Background, Rest, started
from megacpt.checkpoint.writer.shared_memory import Place

Tensors = list[torch.Tensor]


@pytest.fixture
def beside() -> Iterator[Background[Tensors]]:
    background: Background[Tensors] = Background(cores=1.0)
    yield background
    background.close()


def seen(memory: mmap.mmap, *, rest: Rest, places: Sequence[Place]) -> Tensors:
    return [place.tensor(memory).clone() for place in places]


@dataclass(frozen=True, slots=True, kw_only=True)
class Burnt:
    took_s: float
    queued_s: float
    """Of it, while other programs had the cores."""


def burn(memory: mmap.mmap, *, rest: Rest, cpu_s: float) -> Burnt:
    """Until that much CPU time has gone."""
    began_at, queued_s, until = time.monotonic(), all_queued_s(), time.process_time() + cpu_s
    while time.process_time() < until:
        rest()
    return Burnt(took_s=time.monotonic() - began_at, queued_s=all_queued_s() - queued_s)


def all_queued_s() -> float:
    """How long this process has been ready to run and has not, where Linux counts it."""
    path = Path("/proc/self/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0


def end(memory: mmap.mmap, *, rest: Rest) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kinds() -> Tensors:
    """Of every width, and some that do not lie in a row."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(7, 300, generator=generator)
    return [
        *(whole.to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
        (whole * 100).to(torch.int64),
        whole > 0,
        whole.to(torch.float8_e4m3fn).view(torch.uint8),
        whole.t(),
        whole[:, 10:20],
        whole[3],
        torch.tensor(1.5),
        torch.empty(0, 4),
        torch.nn.Parameter(whole.clone()),
    ]


def test_what_is_held_is_seen_bit_for_bit(beside: Background[Tensors]) -> None:
    tensors = kinds()
    places = beside.hold(tensors)
    beside.begin(partial(seen, places=places))
    found = beside.result()
    assert [t.dtype for t in found] == [t.dtype for t in tensors]
    assert all(torch.equal(f, t) for f, t in zip(found, tensors, strict=True))


def test_after_it_has_settled_the_tensors_may_change(beside: Background[Tensors]) -> None:
    large = torch.arange(20_000_000, dtype=torch.int32)
    before = large.clone()
    places = beside.hold([large])
    beside.begin(partial(seen, places=places))
    assert beside.is_copying
    assert beside.is_running()
    beside.settle()
    assert not beside.is_copying
    large.zero_()
    assert torch.equal(beside.result()[0], before)
    assert not beside.is_running()


def test_memory_is_kept_from_one_to_the_next_and_grows(beside: Background[Tensors]) -> None:
    for size in (10_000, 10, 1_000_000):
        tensor = torch.full((size,), float(size))
        beside.reserve([tensor])
        places = beside.hold([tensor])
        beside.begin(partial(seen, places=places))
        assert torch.equal(beside.result()[0], tensor)


def test_its_death_is_told_when_its_result_is_asked_for(beside: Background[Tensors]) -> None:
    beside.hold([torch.ones(10)])
    beside.begin(end)
    with pytest.raises(ChildProcessError, match="was killed by SIGKILL, which the system does"):
        beside.result()


def test_one_that_is_dead_before_it_begins_is_told_in_the_same_words(
    beside: Background[Tensors],
) -> None:
    beside.hold([torch.ones(10)])
    beside.begin(end)
    with pytest.raises(ChildProcessError):
        beside.result()
    beside.hold([torch.ones(10)])
    beside.begin(end)
    with pytest.raises(ChildProcessError, match="was killed by SIGKILL"):
        beside.result()


def test_it_rests_while_nobody_waits() -> None:
    """How long: test_pace.py, by clocks that no other program moves."""
    background: Background[Burnt] = Background(cores=0.1)
    try:
        background.hold([torch.ones(10)])
        background.begin(partial(burn, cpu_s=0.1))
        while background.is_running():
            time.sleep(0.01)
        burnt = background.result()
        assert LONGEST_REST_S <= background.rested_s < burnt.took_s
    finally:
        background.close()


def test_it_takes_all_it_can_once_somebody_waits() -> None:
    background: Background[Burnt] = Background(cores=1e-6)
    try:
        background.hold([torch.ones(10)])
        background.begin(partial(burn, cpu_s=0.5))
        # With a rest of 0.05 s after each look at the clock: minutes.
        burnt = background.result()
        assert 0.5 <= burnt.took_s < 20 + burnt.queued_s
        assert background.rested_s < 1
    finally:
        background.close()


def test_it_is_started_only_where_it_is_wanted() -> None:
    with started(wanted=False, cores=1.0) as nobody:
        assert nobody is None
    with started(wanted=True, cores=1.0) as somebody:
        assert somebody is not None
        somebody.hold([torch.ones(10)])
        somebody.begin(partial(burn, cpu_s=0.0))
        assert somebody.result().took_s >= 0
