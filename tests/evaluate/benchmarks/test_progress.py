# SPDX-License-Identifier: Apache-2.0
"""The line that a person waits beside: questions of the suite, not passes of the model."""

from __future__ import annotations

import io
from pathlib import Path

from megacpt.evaluate.benchmarks.answers import answered
from megacpt.evaluate.benchmarks.progress import Progress, ProgressLine
from megacpt.evaluate.journal import AnswerJournal


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_rate_and_time_left_are_of_questions() -> None:
    said, clock = io.StringIO(), Clock()
    line = ProgressLine(said, clock=clock)
    line.begin("mmlu: base")
    line.part(before=0, count=4096, total=8192)
    clock.now_s = 1.0
    line.passed(1, 8)
    assert said.getvalue() == "", "what takes two seconds needs no line"
    clock.now_s = 10.0
    line.passed(2, 8)
    assert said.getvalue() == "mmlu: base 1,024 of 8,192  102.4/s  1:10 left\n"
    line.part(before=4096, count=4096, total=8192)
    clock.now_s = 40.0
    line.passed(0, 8)
    assert said.getvalue().splitlines()[1] == "mmlu: base 4,096 of 8,192  102.4/s  0:40 left"
    line.close()
    line.begin("law: base")
    clock.now_s = 41.0
    line.part(before=0, count=2, total=2)
    line.passed(1, 2)
    assert len(said.getvalue().splitlines()) == 2, "another suite has a clock of its own"


def test_what_is_known_is_no_part_of_it(tmp_path: Path) -> None:
    parts = []

    class Kept(Progress):
        def part(self, *, before: int, count: int, total: int) -> None:
            parts.append((before, count, total))

    journal = AnswerJournal(tmp_path / "answers.jsonl")
    for questions in ([1, 2], [1, 2, 3]):
        answered(
            questions, journal=journal, key=str, ask=lambda some: [0] * len(some), progress=Kept()
        )
    assert parts == [(0, 2, 2), (0, 1, 1)]
