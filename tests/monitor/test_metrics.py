# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl of a run killed anywhere equals that of a run never killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.errors import DataError, EnvironmentError_
from megacpt.monitor.metrics import MetricsLog, StepRecord, read_metrics


def record(step: int) -> StepRecord:
    return {"step": step, "loss": 3.0 - step / 100, "loss_per_source": {"plant": 2.5, "général": 3}}


def write(path: Path, *, steps: range, resume_after_step: int | None) -> None:
    log = MetricsLog(path, resume_after_step=resume_after_step)
    for step in steps:
        log.log(record(step))
    log.close()


def test_records_come_back_as_written(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", steps=range(5), resume_after_step=None)
    assert read_metrics(tmp_path / "metrics.jsonl") == [record(n) for n in range(5)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(killed_at=st.integers(0, 2000), checkpoint_every=st.integers(1, 7))
def test_a_run_killed_at_any_byte_leaves_the_file_of_an_undisturbed_run(
    tmp_path: Path, killed_at: int, checkpoint_every: int
) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    write(whole, steps=range(13), resume_after_step=None)
    killed.write_bytes(whole.read_bytes()[:killed_at])
    done = max((r["step"] for r in read_metrics(killed)), default=0)
    checkpoint = done // checkpoint_every * checkpoint_every
    resume_after = checkpoint if checkpoint else None
    start = checkpoint + 1 if checkpoint else 0
    write(killed, steps=range(start, 13), resume_after_step=resume_after)
    assert killed.read_bytes() == whole.read_bytes()


def test_what_was_measured_on_the_base_model_survives_a_resume(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", steps=range(9), resume_after_step=None)
    log = MetricsLog(tmp_path / "metrics.jsonl", resume_after_step=4)
    assert [r["step"] for r in log.kept] == [0, 1, 2, 3, 4]


def test_starting_afresh_empties_the_file(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", steps=range(9), resume_after_step=None)
    assert MetricsLog(tmp_path / "metrics.jsonl", resume_after_step=None).kept == []
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_diverged_numbers_are_null_so_that_the_file_stays_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", resume_after_step=None)
    log.log({"step": 1, "loss": math.nan, "loss_per_source": {"a": math.inf, "b": 1.0}})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 1, "loss": None, "loss_per_source": {"a": None, "b": 1.0}}


def test_a_step_is_never_logged_twice(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", resume_after_step=None)
    log.log(record(3))
    with pytest.raises(AssertionError, match="step 3 is already in"):
        log.log(record(3))


def test_no_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="measured nothing yet; start it with `megacpt train`"):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"loss": 1.0}', '{"step": "one"}', ""])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(DataError, match="line 2 is not a record of a step"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_place_that_cannot_be_written_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentError_, match=r"cannot be written: .*; choose a folder"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl", resume_after_step=None)


def test_a_full_disk_names_the_remedy() -> None:
    log = MetricsLog.__new__(MetricsLog)
    log.path, log._last_step = Path("/dev/full"), -1
    log._file = log.path.open("a", encoding="utf-8")
    with pytest.raises(EnvironmentError_, match="No space left on device"):
        log.log(record(1))
