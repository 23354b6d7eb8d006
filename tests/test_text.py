# SPDX-License-Identifier: Apache-2.0
"""Sizes, counts, durations and lists as people read them."""

from __future__ import annotations

import pytest

from megacpt.text import count, duration, listed, memory_size, one_of, text_size


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
