# SPDX-License-Identifier: Apache-2.0
"""Questions and answers of a process, which may end or hang."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from megacpt.evaluate.line_process import LineProcess


@pytest.fixture
def process() -> Iterator[LineProcess]:
    path = os.pathsep.join(sys.path)
    started = LineProcess(
        "tests.evaluate.line_echo", environment={"PYTHONPATH": path, "LINE_ECHO": "1"}
    )
    yield started
    started.stop()


def test_a_line_there_and_a_line_back(process: LineProcess) -> None:
    for said in ("Haue you had", ["quiet", 1.5, None], "Guard?\n"):
        assert process.exchange(said) == {"said": said, "variable": "1"}
    assert not process.has_ended


def test_what_json_cannot_hold_costs_no_process(process: LineProcess) -> None:
    with pytest.raises(TypeError):
        process.exchange(object())
    assert process.exchange("next") is not None


def test_one_that_ends_gives_nothing(process: LineProcess) -> None:
    assert process.exchange("end") is None
    assert process.has_ended
    assert process.exchange("more") is None


def test_one_that_hangs_is_ended(process: LineProcess) -> None:
    assert process.exchange("ready") is not None
    started_at = time.monotonic()
    assert process.exchange("hang", timeout_s=0.5) is None
    assert time.monotonic() - started_at < 30
    assert process.has_ended
