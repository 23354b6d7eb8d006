# SPDX-License-Identifier: Apache-2.0
"""What a run is asked to do is one decision a step."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from megacpt.device.environment import job_ends_at
from megacpt.train.requests import Request, Requests, TimeLimit, ends_at

NO_LIMIT = TimeLimit(ends_at=None, margin_s=0.0)


def requests_of(folder: Path, *, time_limit: TimeLimit = NO_LIMIT) -> Requests:
    return Requests(file=folder / "request", time_limit=time_limit, device=torch.device("cpu"))


def agreed(requests: Requests, *, is_held: bool = True) -> Request:
    return requests.agree(is_held=lambda: is_held, is_writing=False).request


@pytest.mark.mcore
@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("word", ["save", "save_and_exit", "stop"])
def test_a_word_is_obeyed_once(tmp_path: Path, word: str) -> None:
    (tmp_path / "request").write_text(f" {word}\n")
    with requests_of(tmp_path) as requests:
        assert agreed(requests) is Request[word]
        assert agreed(requests) is Request.none
    assert not (tmp_path / "request").exists()


@pytest.mark.mcore
@pytest.mark.usefixtures("one_rank")
def test_another_word_is_told_once_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "request").write_text("halt\n")
    with requests_of(tmp_path) as requests:
        assert [agreed(requests) for _ in range(3)] == [Request.none] * 3
    assert (tmp_path / "request").read_text() == "halt\n"
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'request'}: 'halt' is none of save, save_and_exit, stop; ignored"
    ]


@pytest.mark.mcore
@pytest.mark.usefixtures("one_rank")
def test_the_stronger_wish_wins_and_the_weaker_waits(tmp_path: Path) -> None:
    (tmp_path / "request").write_text("save\n")
    with requests_of(tmp_path) as requests:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert agreed(requests) is Request.usr1
        os.kill(os.getpid(), signal.SIGTERM)
        assert agreed(requests) is Request.term
        assert agreed(requests, is_held=False) is Request.superseded
    assert (tmp_path / "request").exists()


@pytest.mark.mcore
@pytest.mark.usefixtures("one_rank")
def test_signals_are_what_they_were_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with requests_of(tmp_path):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.mcore
@pytest.mark.usefixtures("one_rank")
def test_all_hear_that_one_writes(tmp_path: Path) -> None:
    with requests_of(tmp_path) as requests:
        for writes in (True, False):
            assert requests.agree(is_held=lambda: True, is_writing=writes).is_writing is writes


@pytest.mark.mcore
@pytest.mark.usefixtures("one_rank")
def test_the_clock_is_looked_at(tmp_path: Path) -> None:
    near = TimeLimit(ends_at=time.time() + 60, margin_s=100.0)
    with requests_of(tmp_path, time_limit=near) as requests:
        assert agreed(requests) is Request.time_limit


def test_what_saves_and_what_exits() -> None:
    assert {r.name for r in Request if r.saves} == {
        "save", "save_and_exit", "time_limit", "usr1", "interrupt", "term"
    }  # fmt: skip
    assert {r.name for r in Request if r.exits} == {
        "save_and_exit", "time_limit", "usr1", "interrupt", "term", "stop"
    }  # fmt: skip


def test_the_margin_is_made_of_what_steps_and_saves_take() -> None:
    limit = TimeLimit(ends_at=1000.0, margin_s=0.0)
    assert not limit.is_near(now=969.0)
    assert limit.is_near(now=970.0)
    limit.count_step(10.0)
    limit.count_step(5.0)
    assert not limit.is_near(now=939.0)
    assert limit.is_near(now=940.0)
    limit.count_save(20.0)
    assert not limit.is_near(now=909.0)
    assert limit.is_near(now=910.0)
    own = TimeLimit(ends_at=1000.0, margin_s=100.0)
    own.count_step(500.0)
    assert not own.is_near(now=899.0)
    assert own.is_near(now=900.0)
    assert not NO_LIMIT.is_near(now=1e12)


def test_the_earlier_end_counts() -> None:
    assert ends_at(started_at=100.0, limit_minutes=0.0, job_ends_at=None) is None
    assert ends_at(started_at=100.0, limit_minutes=1.0, job_ends_at=None) == 160.0
    assert ends_at(started_at=100.0, limit_minutes=1.0, job_ends_at=150.0) == 150.0
    assert ends_at(started_at=100.0, limit_minutes=0.0, job_ends_at=150.0) == 150.0


@pytest.mark.parametrize(
    ("variables", "end"),
    [({}, None), ({"SLURM_JOB_END_TIME": "0"}, None), ({"SLURM_JOB_END_TIME": "1700"}, 1700.0)],
)
def test_slurm_says_when_the_job_ends(variables: dict[str, str], end: float | None) -> None:
    assert job_ends_at(variables) == end
