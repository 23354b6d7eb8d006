# SPDX-License-Identifier: Apache-2.0
"""Every piece is somebody's, and nobody else's."""

from __future__ import annotations

import pytest

from megacpt.corpus.workers.share import NO_PIECES, Share, parse_share
from megacpt.errors import ConfigError


@pytest.mark.parametrize("tasks", [1, 2, 3, 7, 30])
def test_shares_are_all_pieces_once(tasks: int) -> None:
    pieces = list(range(100, 120))
    shares = [Share(number, tasks).of(pieces) for number in range(tasks)]
    assert sorted(piece for share in shares for piece in share) == pieces
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_no_pieces() -> None:
    assert list(NO_PIECES.of([1, 2])) == []
    assert NO_PIECES.is_first
    assert [Share(number, 3).is_first for number in range(3)] == [True, False, False]


def test_a_text() -> None:
    assert parse_share("3/4") == (3, 4)


@pytest.mark.parametrize("text", ["4/4", "-1/4", "0/0", "1/0", "3/4/5", "half", "1", ""])
def test_no_such_share(text: str) -> None:
    with pytest.raises(ConfigError, match=f"task={text} must be K/N"):
        parse_share(text)
