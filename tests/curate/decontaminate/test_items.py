# SPDX-License-Identifier: Apache-2.0
"""What an answer is."""

from __future__ import annotations

import pytest

from megacpt.curate.decontaminate.items import chosen


@pytest.mark.parametrize(
    ("answer", "options", "expected"),
    [
        (0, ("a b", "c d"), ("a b",)),
        ("B", ("a b", "c d"), ("c d",)),
        ("2", ("1", "2", "3"), ("2",)),
        ("2", ("x", "y", "z"), ("z",)),
        ("7", ("x", "y"), ("7",)),
        ("both", ("x", "y"), ("both",)),
        (None, ("x", "y"), ()),
        (True, (), ("True",)),
    ],
)
def test_answers(answer: object, options: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert chosen(answer, options=options) == expected
