# SPDX-License-Identifier: Apache-2.0
"""Sizes, counts, durations and lists as people read them."""

from __future__ import annotations

from io import StringIO

import pytest

from megacpt.text import (
    LiveLine,
    count,
    duration,
    listed,
    memory_size,
    one_of,
    rate_text,
    text_size,
    wrapped,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (3e15, "3,000.0 TB")],
)
def test_sizes_of_text(size: float, text: str) -> None:
    assert text_size(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(440, "440 B"), (1536, "1.50 KiB"), (3.25 * 2**30, "3.25 GiB"), (2**51, "2,048.00 TiB")],
)
def test_sizes_of_memory(size: float, text: str) -> None:
    assert memory_size(size) == text


def test_one_digit_is_enough_for_a_disk() -> None:
    sizes = [memory_size(size, digits=1) for size in (2**41, 3.25 * 2**30, 12)]
    assert sizes == ["2.0 TiB", "3.2 GiB", "12 B"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (5.4, "0:05"),
        (42.4, "0:42"),
        (59.6, "1:00"),
        (3723, "1:02:03"),
        (273_600, "3d 04h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_rate_is_of_what_is_done() -> None:
    text = rate_text(12.0, what="answers", done=30, total=1200)
    assert text == "answers 30 of 1,200  2.5/s  7:48 left"
    assert rate_text(0.0, what="answers", done=1, total=1).endswith("0:00 left")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (612.3, "612"),
        (12_345, "12.3k"),
        (999_990, "1.0M"),
        (4.56e6, "4.6M"),
        (8e10, "80.0B"),
    ],
)
def test_counts(value: float | None, text: str) -> None:
    assert count(value) == text


def test_counts_with_more_digits() -> None:
    assert [count(number, digits=2) for number in (6144, 95_712, 999_990)] == [
        *("6144", "95.71k", "1.00M"),
    ]


def test_lists() -> None:
    assert [listed(["a", "b", "c"][:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert one_of([1, 2, 4]) == "1, 2 or 4"


def test_lines_for_a_terminal() -> None:
    lines = wrapped("a word or two " * 10, head="error: ", indent=2)
    assert lines[0].startswith("error: a word")
    assert lines[1].startswith("  ")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "shown"),
    [
        (StringIO(), "2 s\n12 s\n"),
        (_Terminal(), "\r\x1b[K2 s\r\x1b[K3 s\r\x1b[K12 s\r\x1b[K"),
    ],
    ids=["file", "terminal"],
)
def test_a_line_of_progress(stream: StringIO, shown: str) -> None:
    """None while it is quiet; drawn again on a terminal, one now and then in a file."""
    times = iter([0.0, 1.0, 2.0, 3.0, 3.05, 12.0])
    line = LiveLine(stream, quiet_s=2, every_s=10, clock=lambda: next(times))
    for _ in range(5):
        line.show(lambda elapsed_s: f"{elapsed_s:.0f} s")
    line.close()
    assert stream.getvalue() == shown
