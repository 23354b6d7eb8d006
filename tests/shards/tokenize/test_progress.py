# SPDX-License-Identifier: Apache-2.0
"""A line that is redrawn on a terminal, and lines now and then in a file."""

from __future__ import annotations

import io

import pytest

from megacpt.shards.tokenize.progress import ProgressLine, TokenizeProgress, render


def at(done: int, *, before: int = 0) -> TokenizeProgress:
    return TokenizeProgress(
        bytes_done=done,
        bytes_total=1_000_000_000,
        bytes_before=before,
        documents=done // 1000,
        tokens=done // 4,
        tokens_before=before // 4,
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("stream", "lines"), [(io.StringIO(), 2), (Terminal(), 100)])
def test_lines_come_when_they_are_due(stream: io.StringIO, lines: int) -> None:
    clock = Clock()
    line = ProgressLine(stream, clock=clock)
    for step in range(100):
        line(at(step * 1_000_000))
        clock.now_s += 0.1
    line.close()
    shown = stream.getvalue()
    assert shown.count("MB/s") == lines
    assert shown.endswith("\r\x1b[K" if stream.isatty() else "left\n")


def test_short_work_shows_nothing_in_a_file() -> None:
    stream, clock = io.StringIO(), Clock()
    line = ProgressLine(stream, clock=clock)
    clock.now_s = 1.9
    line(at(10))
    line.close()
    assert stream.getvalue() == ""


def test_rate_and_time_left_are_of_this_run() -> None:
    shown = render(at(600_000_000, before=500_000_000), elapsed_s=1.0)
    assert "60.0% of 1.0 GB  100.0 MB/s  25.00 M tokens/s  600,000 documents  0:04 left" in shown
    assert len(render(at(999_999_999), elapsed_s=86_400.0)) <= 80
    assert "0:00 left" in render(at(0), elapsed_s=0.0)
