# SPDX-License-Identifier: Apache-2.0
"""Questions are asked once, also over an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from megacpt.evaluate.benchmarks.answers import AT_ONCE, answered
from megacpt.evaluate.benchmarks.progress import Progress
from megacpt.evaluate.journal import AnswerJournal


class Asked:
    def __init__(self) -> None:
        self.pieces: list[list[int]] = []

    def __call__(self, questions: Sequence[int]) -> list[list[int]]:
        self.pieces.append(list(questions))
        return [[n, n * n] for n in questions]


def answers(path: Path, questions: Sequence[int], *, asked: Asked) -> list[list[int]]:
    with closing(AnswerJournal(path)) as journal:
        return answered(questions, journal=journal, key=str, ask=asked, progress=Progress())


def test_each_question_is_asked_once(tmp_path: Path) -> None:
    path, asked = tmp_path / "new" / "model.jsonl", Asked()
    assert answers(path, [3, 1, 3], asked=asked) == [[3, 9], [1, 1], [3, 9]]
    assert answers(path, [1, 2, 3], asked=asked) == [[1, 1], [2, 4], [3, 9]]
    assert asked.pieces == [[3, 1], [2]]


def test_what_a_kill_has_cut_is_asked_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "model.jsonl", Asked()
    expected = answers(path, range(5), asked=asked)
    content = path.read_bytes()
    for cut in (1, 4):
        path.write_bytes(content[:-cut])
        assert answers(path, range(5), asked=asked) == expected
        assert path.read_bytes() == content
    assert asked.pieces == [list(range(5)), [4], [4]]


def test_answers_are_kept_piece_by_piece(tmp_path: Path) -> None:
    asked = Asked()
    answers(tmp_path / "model.jsonl", range(AT_ONCE + 1), asked=asked)
    assert [len(piece) for piece in asked.pieces] == [AT_ONCE, 1]
