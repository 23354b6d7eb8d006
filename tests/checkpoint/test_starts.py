# SPDX-License-Identifier: Apache-2.0
"""Starts have numbers of their own, know when they are superseded, and freeze their past."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megacpt.checkpoint import starts
from megacpt.checkpoint.starts import Lineage, Start
from megacpt.errors import EnvironmentError_, Superseded


def claim(run_dir: Path, *, host: str = "node1", job: str | None = None) -> Start:
    return starts.claim(run_dir, host=host, pid=11, job=job, restart=None if job is None else 2)


def test_file_says_who_and_from_where(tmp_path: Path) -> None:
    start = claim(tmp_path, job="17")
    path = tmp_path / "starts" / "000001.json"
    assert json.loads(path.read_text()) == {
        "start": 1,
        "host": "node1",
        "pid": 11,
        "job": "17",
        "restart": 2,
        "time": start.time,
        "from_step": None,
        "earlier": {},
    }
    starts.record_from(start, step=40)
    assert [s.from_step for s in starts.read_starts(tmp_path)] == [40]


def test_each_claim_takes_the_fence_from_all_before(tmp_path: Path) -> None:
    first = claim(tmp_path)
    assert first.is_held()
    first.require_held()
    second = claim(tmp_path, host="node2", job="17")
    assert not first.is_held()
    assert second.is_held()
    with pytest.raises(
        Superseded, match=r"start 1 .* is superseded by start 2 \(node2, process 11, job 17\)"
    ) as raised:
        first.require_held()
    assert raised.value.exit_code == 76
    with pytest.raises(Superseded):
        starts.record_from(first, step=3)


def test_claims_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as claimers:
        claimed = list(claimers.map(lambda _: claim(tmp_path), range(24)))
    assert sorted(start.number for start in claimed) == list(range(1, 25))
    assert sum(start.is_held() for start in claimed) == 1


def test_run_begun_anew_in_the_same_folder_supersedes(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    old = claim(run_dir)
    shutil.rmtree(run_dir)
    new = claim(run_dir)
    assert (old.number, new.number) == (1, 1)
    with pytest.raises(Superseded, match="by a run started again in that folder"):
        old.require_held()
    assert new.is_held()


def test_lineage_is_that_of_the_newest_start_alone(tmp_path: Path) -> None:
    first = claim(tmp_path)
    starts.record_from(first, step=0)
    second = claim(tmp_path)
    third = claim(tmp_path)
    assert third.earlier == {1: 0}
    # The second slept in the middle of writing where it went on from.
    late = json.dumps({**json.loads(path_of(second).read_text()), "from_step": 5})
    path_of(second).write_text(late)
    assert starts.lineage(tmp_path).from_steps == {1: 0}
    starts.record_from(third, step=9)
    assert starts.lineage(tmp_path).from_steps == {1: 0, 3: 9}


def test_start_that_died_in_its_claim_counts_as_a_number_only(tmp_path: Path) -> None:
    first = claim(tmp_path)
    starts.record_from(first, step=4)
    (tmp_path / "starts" / "000002.json").touch()
    assert not first.is_held()
    with pytest.raises(Superseded, match=r"by start 2;"):
        first.require_held()
    assert starts.lineage(tmp_path).from_steps == {1: 4}
    assert claim(tmp_path).number == 3
    assert [start.number for start in starts.read_starts(tmp_path)] == [1, 3]


def test_checkpoint_counts_up_to_where_any_later_start_went_on() -> None:
    lineage = Lineage(from_steps={1: 0, 2: 50, 3: 30})
    assert lineage.left_by(start=1, step=30) is None
    assert lineage.left_by(start=1, step=31) == 3
    assert lineage.left_by(start=1, step=51) == 2
    assert lineage.left_by(start=2, step=40) == 3
    assert lineage.left_by(start=3, step=1000) is None


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "starts").write_text("a file")
    with pytest.raises(EnvironmentError_, match="starts cannot be written: File exists"):
        claim(tmp_path)


def path_of(start: Start) -> Path:
    return start.run_dir / "starts" / f"{start.number:06d}.json"
