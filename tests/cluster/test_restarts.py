# SPDX-License-Identifier: Apache-2.0
"""Starts of a run's jobs: how many there may be without a newer checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacpt.cluster.restarts import (
    JobStart,
    NoProgress,
    history,
    note_end,
    note_start,
    require_progress,
    starts_without_progress,
)


def start(step: int, *, job: int = 1, restart: int = 0, continues: bool = True) -> JobStart:
    return JobStart(
        job=str(job), restart=restart, nodes="n[1-2]", continues=continues, step=step, time=1.5
    )


def is_refused(past: list[JobStart], new: JobStart, *, restarts_max: int) -> bool:
    try:
        require_progress(past, start=new, restarts_max=restarts_max)
    except NoProgress:
        return True
    return False


def test_the_start_after_the_last_restart_is_refused() -> None:
    past = [start(0, continues=False)]
    for _ in range(3):
        assert not is_refused(past, start(0), restarts_max=3)
        past.append(start(0))
    with pytest.raises(NoProgress, match="4 starts in a row have left no checkpoint newer than st"):
        require_progress(past, start=start(0), restarts_max=3)


def test_progress_and_a_person_begin_the_count_again() -> None:
    past = [start(0, continues=False), start(0), start(0)]
    assert starts_without_progress(past, step=0) == 3
    assert starts_without_progress(past, step=8) == 0
    assert starts_without_progress([*past, start(0, continues=False)], step=0) == 1
    assert not is_refused(past, start(0, continues=False), restarts_max=0)


def test_an_older_checkpoint_is_no_progress() -> None:
    """The newest one was damaged, so the one before it is the newest now."""
    assert starts_without_progress([start(8, continues=False), start(8)], step=4) == 2


@given(
    gains=st.lists(st.integers(min_value=0, max_value=2), max_size=40),
    restarts_max=st.integers(min_value=0, max_value=4),
)
def test_a_run_ends_exactly_when_it_has_stood_still_too_long(
    gains: list[int], restarts_max: int
) -> None:
    """``gains``: steps that each start adds. The twin counts the starts that have stood still."""
    past, step, still = [start(0, continues=False)], 0, 0
    for gain in gains:
        step += gain
        still = 0 if gain else still + 1
        assert is_refused(past, start(step), restarts_max=restarts_max) == (still > restarts_max)
        if still > restarts_max:
            break
        past.append(start(step))


def test_the_history_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "jobs.jsonl"
    assert history(path).starts == ()
    starts = [start(0, continues=False), start(8, restart=1), start(8, job=2)]
    for one in starts:
        note_start(path, start=one)
    note_end(path, job="1", restart=1, exit_code=75, why="a rank was lost")
    with path.open("a") as stream:
        stream.write('{"event": "sta')
    found = history(path)
    assert list(found.starts) == starts
    ends = [found.end_of(one) for one in starts]
    assert [end.exit_code if end else None for end in ends] == [None, 75, None]
