# SPDX-License-Identifier: Apache-2.0
"""Questions on the held-out works, as tasks of lm-eval: which of four continuations is the text's?

Of the plays the next line of a speech, of the pages the next sentence of a paragraph. A question's
wrong continuations are those that other questions ask for: each is offered four times and is right
once, so that what a line is worth by itself decides nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from megacpt.demo import texts
from megacpt.demo.overlap import SourcedText
from megacpt.files import write_text

TASKS = {"folio_lines": "next line of a play", "python_sentences": "next sentence of a page"}
"""NAME.yaml -> what is asked, in words."""
OPTIONS = 4
GIVEN_LINES, LINE_CHARACTERS = 4, range(25, 61)
PER_PLAY = 20
GIVEN_SENTENCES, SENTENCE_CHARACTERS = 2, range(30, 161)
PER_PAGE = 4
SCENE = re.compile(r"(Actus|Scena|Scoena)\b")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """``document_id``: what passages have in common that are not independent of each other."""

    document_id: str
    given: str
    following: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    document_id: str
    given: str
    options: tuple[str, ...]
    right: int


def write_questions(folder: Path) -> None:
    """NAME.yaml of TASKS and NAME.jsonl, unless they are there."""
    of_plays, of_pages = (folder / f"{name}.yaml" for name in TASKS)
    if not of_plays.exists():
        plays = texts.plays()
        passages = [p for name in texts.HELD_OUT_PLAYS for p in passages_of_play(plays[name])]
        write_task(of_plays, passages=passages, delimiter="\n")
    if not of_pages.exists():
        found = [p for page in texts.pages() for p in passages_of_page(page)]
        # Python's manual has some paragraphs on two pages.
        once = {passage.given: passage for passage in found}
        write_task(of_pages, passages=[*once.values()], delimiter=" ")


def passages_of_play(play: SourcedText) -> list[Passage]:
    """Of speeches that are long enough, spread over the play; documents are scenes."""
    found, scene = [], 0
    for paragraph in play.text.split("\n\n"):
        scene += bool(SCENE.match(paragraph))
        lines = [line.strip() for line in paragraph.split("\n")]
        if len(lines) > GIVEN_LINES and len(lines[GIVEN_LINES]) in LINE_CHARACTERS:
            given = "\n".join(lines[:GIVEN_LINES])
            name = f"{play.source}, scene {scene}"
            found.append(Passage(document_id=name, given=given, following=lines[GIVEN_LINES]))
    return spread(found, count=PER_PLAY)


def passages_of_page(page: SourcedText) -> list[Passage]:
    """Of paragraphs of three sentences or more, spread over the page."""
    found = []
    for paragraph in page.text.split("\n\n"):
        sentences = SENTENCE_END.split(" ".join(paragraph.split()))
        if len(sentences) <= GIVEN_SENTENCES or not sentences[0][0].isupper():
            continue
        given, following = " ".join(sentences[:GIVEN_SENTENCES]), sentences[GIVEN_SENTENCES]
        if len(following) in SENTENCE_CHARACTERS:
            found.append(Passage(document_id=page.source, given=given, following=following))
    return spread(found, count=PER_PAGE)


def spread(passages: Sequence[Passage], *, count: int) -> list[Passage]:
    """``count`` of them, at equal distances; all where there are no more."""
    if len(passages) <= count:
        return list(passages)
    return [passages[n * len(passages) // count] for n in range(count)]


def questions(passages: Sequence[Passage]) -> Iterator[Question]:
    """A question a passage; its wrong options follow others, about a quarter of all apart, and no
    two questions have all four in common."""
    apart = (len(passages) - 1) // OPTIONS
    for n, passage in enumerate(passages):
        options = [passages[(n + k * apart) % len(passages)].following for k in range(OPTIONS)]
        right = n % OPTIONS
        options[0], options[right] = options[right], options[0]
        yield Question(
            document_id=passage.document_id,
            given=passage.given,
            options=tuple(options),
            right=right,
        )


def write_task(path: Path, *, passages: Sequence[Passage], delimiter: str) -> None:
    """``path``: the YAML file; the questions lie beside it. ``delimiter``: between what is given
    and what follows."""
    items = path.with_suffix(".jsonl")
    lines = (
        json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions(passages)
    )
    write_text(items, text="".join(lines))
    task = {
        "task": path.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{given}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{right}}",
        "target_delimiter": delimiter,
        # By the bytes of an option: sentences are of many lengths.
        "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
    }
    write_text(path, text=yaml.safe_dump(task, sort_keys=False))
