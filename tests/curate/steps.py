# SPDX-License-Identifier: Apache-2.0
"""Two small steps of curation, and corpora for them, for tests of what all steps go through."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from megacpt.corpus import pieces
from megacpt.corpus.curation import Curation
from megacpt.curate import pipeline
from megacpt.curate.apply import apply_step
from megacpt.curate.config import CurateConfig, read_config
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.pipeline import curate
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, changed, dropped, is_trained_on
from megacpt.curate.work import make_once, make_pieces

SHORT = 20


@dataclass(frozen=True, kw_only=True)
class Shout:
    """Drops short texts, and writes those with a 3 in capitals."""

    name: str = "filter"
    threads_max: int = 2

    def to_json(self) -> dict[str, Any]:
        return {"least": SHORT}

    def concerns(self, source: TextSource) -> bool:
        return is_trained_on(source)

    def open(self) -> Judge:
        return lambda batch: [_shouted(document) for document in batch.documents]


def _shouted(document: Any) -> DocumentVerdict:
    if len(document.text) < SHORT:
        return dropped("short", length=len(document.text))
    if "3" in document.text and not document.text.isupper():
        return changed(document.with_text(document.text.upper()), rule="three")
    return KEPT


def shout(corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome:
    return apply_step(corpus, step=Shout(), context=context)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is kept of each piece: hashes of its texts."""

    def to_json(self) -> dict[str, Any]:
        return {}

    def open(self) -> Callable[[Path], PieceMarks]:
        return PieceMarks


class PieceMarks:
    def __init__(self, _stem: Path) -> None:
        self._marks: list[str] = []

    def work(self, batch: DocumentBatch) -> list[str]:
        return [mark(document.text) for document in batch.documents]

    def settle(self, made: list[str]) -> None:
        self._marks += made

    def finish(self) -> Mapping[str, Any]:
        return {"marks": self._marks}


def mark(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Unlike:
    """Drops every text that is there before, in the order of the corpus."""

    twins: Path
    name: str = "deduplicate"
    threads_max: int = 1

    def to_json(self) -> dict[str, Any]:
        return {}

    def concerns(self, source: TextSource) -> bool:
        return True

    def open(self) -> Judge:
        found = {tuple(place) for place in json.loads(self.twins.read_text())}

        def judge(batch: DocumentBatch) -> Sequence[DocumentVerdict]:
            places = ((batch.piece, number) for number in batch.numbers)
            return [dropped("twin") if place in found else KEPT for place in places]

        return judge


def unlike(corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome:
    """All pieces, then all of them together, then all pieces again, as deduplicate does."""
    marks = make_pieces(
        corpus, settings=Marks(), folder=context.folder / "marks", reading=context.reading
    )
    together = context.folder / "together"

    def make() -> None:
        seen: set[str] = set()
        twins = []
        for piece, record in enumerate(marks):
            for number, found in enumerate(record["marks"]):
                if found in seen:
                    twins.append((piece, number))
                seen.add(found)
        (together / "twins.json").write_text(json.dumps(twins))

    make_once(corpus, settings={}, folder=together, reading=context.reading, make=make)
    return apply_step(
        corpus,
        step=Unlike(twins=together / "twins.json"),
        context=replace(context, folder=context.folder / "left"),
    )


def both(corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome:
    """The one and then the other, as one step."""
    first = shout(corpus, settings=settings, context=replace(context, folder=context.folder / "a"))
    return unlike(
        first.corpus, settings=settings, context=replace(context, folder=context.folder / "b")
    )


def texts(count: int, *, seed: int) -> list[str]:
    """Short ones, ones with a 3, ones that come twice, ones in other scripts."""
    rng = random.Random(seed)
    parts = ["law ", "of the land ", "3 ", "naïve ", "日本 ", "\n", '"', "\\ ", "٣ "]
    found: list[str] = []
    for _ in range(count):
        again = found and rng.random() < 0.2
        text = rng.choice(found) if again else "".join(rng.choices(parts, k=rng.randint(1, 40)))
        found.append(text)
    return found


def lines(texts: Sequence[str], *, seed: int) -> str:
    """As lines of JSON: spelt in several ways, some with an id or other fields."""
    rng = random.Random(seed)
    found = []
    for number, text in enumerate(texts):
        fields: dict[str, Any] = {"text": text}
        if rng.random() < 0.3:
            fields |= {"id": rng.choice([f"own-{seed}-{number}", number, None])}
        if rng.random() < 0.3:
            fields = {"url": "http://a/?b=%22", "score": 1.5, **fields}
        found.append(json.dumps(fields, ensure_ascii=rng.random() < 0.5))
    return "".join(f"{line}\n" for line in found)


def settings(*more: str) -> CurateConfig:
    """Files and output by relative names, so that two folders can be compared byte for byte."""
    return read_config(
        None,
        overrides=[
            "output=out",
            "sources.law.files=law",
            "sources.late.files=late.jsonl",
            "sources.late.kind=heldout",
            "form=jsonl",
            "deduplicate.exact=true",
            *more,
        ],
    )


def write_corpus(folder: Path, *, seed: int = 0, files: int = 3, count: int = 60) -> None:
    (folder / "law").mkdir(parents=True)
    for number in range(files):
        written = lines(texts(count, seed=seed + number), seed=seed + number)
        (folder / "law" / f"{number}.jsonl").write_text(written)
    (folder / "late.jsonl").write_text(lines(texts(20, seed=seed + 99), seed=seed + 99))


def run(*more: str, **options: Any) -> Curation:
    return curate(settings(*more), **options)


def tree(folder: Path) -> dict[str, bytes]:
    """All that lies there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written(folder: Path, *, source: str = "law") -> list[dict[str, Any]]:
    """Documents of form jsonl, in order."""
    parts = sorted((folder / source).iterdir())
    return [json.loads(line) for part in parts for line in part.read_bytes().splitlines()]


def use(monkeypatch: pytest.MonkeyPatch, *, folder: Path, step: pipeline.RunStep = both) -> None:
    """The step as ``deduplicate``, small pieces, and work in ``folder``."""
    monkeypatch.setitem(pipeline.RUN, "deduplicate", step)
    monkeypatch.setattr(pieces, "PIECE_BYTES_MIN", 2048)
    monkeypatch.chdir(folder)
