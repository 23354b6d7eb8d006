# SPDX-License-Identifier: Apache-2.0
"""Answers are asked once, also over an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megacpt.evaluate.benchmarks import answers
from megacpt.evaluate.benchmarks.answers import Answers, question_key


class Asked:
    def __init__(self) -> None:
        self.questions: list[int] = []

    def __call__(self, questions: Sequence[int]) -> list[list[int]]:
        self.questions += questions
        return [[n, n * n] for n in questions]


def test_each_question_is_asked_once(tmp_path: Path) -> None:
    path, asked = tmp_path / "new" / "model.jsonl", Asked()
    first = Answers(path).get([3, 1, 3], key=str, ask=asked)
    assert (first, asked.questions) == ([[3, 9], [1, 1], [3, 9]], [3, 1])
    again = Answers(path).get([1, 2, 3], key=str, ask=asked)
    assert (again, asked.questions) == ([[1, 1], [2, 4], [3, 9]], [3, 1, 2])


def test_a_cut_line_and_what_follows_is_asked_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "model.jsonl", Asked()
    Answers(path).get(range(5), key=str, ask=asked)
    path.write_bytes(path.read_bytes()[:-4])
    asked.questions.clear()
    assert Answers(path).get(range(5), key=str, ask=asked) == [[n, n * n] for n in range(5)]
    assert asked.questions == [4]
    assert len(path.read_bytes().splitlines()) == 5


def test_answers_are_kept_piece_by_piece(tmp_path: Path) -> None:
    sizes: list[int] = []

    def ask(questions: Sequence[int]) -> list[int]:
        sizes.append(len(questions))
        return list(questions)

    Answers(tmp_path / "model.jsonl").get(range(answers.AT_ONCE + 1), key=str, ask=ask)
    assert sizes == [answers.AT_ONCE, 1]


def test_keys_tell_texts_apart() -> None:
    assert question_key((1, 2), (3,)) == question_key([1, 2], [3])
    assert question_key((1, 2), (3,)) != question_key((1,), (2, 3))
