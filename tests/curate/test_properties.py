# SPDX-License-Identifier: Apache-2.0
"""What holds of every curation, whatever its steps: tried on random corpora."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megacpt.corpus import pieces
from megacpt.corpus.curation import Curation
from tests.curate import steps

STEPS = {
    "exact": ("deduplicate.near=null", "deduplicate.keep=longest"),
    "near": ("deduplicate.near.threshold=0.6", "deduplicate.keep=longest"),
    "own": (),
}


@pytest.fixture(params=STEPS)
def more(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    monkeypatch.setattr(pieces, "PIECE_BYTES_MIN", 2048)
    monkeypatch.chdir(tmp_path)
    if request.param == "own":
        steps.use(monkeypatch, folder=tmp_path, step=steps.shout)
    seed = random.Random(request.param).randrange(1000)
    steps.write_corpus(tmp_path, seed=seed, files=3, count=50)
    return STEPS[request.param]


def texts_of(folder: Path) -> Counter[str]:
    return Counter(row["text"] for row in steps.written(folder))


def raw(folder: Path) -> Counter[str]:
    rows = (path.read_text().splitlines() for path in (folder / "law").glob("*.jsonl"))
    return Counter(json.loads(line)["text"] for lines in rows for line in lines)


def counts(found: Curation) -> dict[str, Any]:
    return dict(found.steps[0].counts["law"])


def test_curating_twice_changes_nothing(tmp_path: Path, more: tuple[str, ...]) -> None:
    steps.run(*more)
    again = steps.run(*more, "sources.law.files=out/law", "sources.late.files=out/late", "output=b")
    assert counts(again)["documents_out"] == counts(again)["documents_in"]
    for source in ("law", "late"):
        lines = [b"".join(content for name, content in files) for files in parts(tmp_path, source)]
        assert lines[0] == lines[1]
    assert [step.name for step in again.sources["law"].history] == [again.steps[0].name]


def parts(folder: Path, source: str) -> list[list[tuple[str, bytes]]]:
    return [sorted(steps.tree(folder / output / source).items()) for output in ("out", "b")]


def test_the_number_of_workers_does_not_matter(tmp_path: Path, more: tuple[str, ...]) -> None:
    made = []
    for workers in (1, 2, 5):
        steps.run(*more, f"workers={workers}")
        made.append(steps.tree(tmp_path / "out"))
        (tmp_path / "out").rename(tmp_path / f"by-{workers}")
    assert made[0] == made[1] == made[2]


def test_the_order_of_files_does_not_matter(tmp_path: Path, more: tuple[str, ...]) -> None:
    first = steps.run(*more)
    files = "law/2.jsonl,law/0.jsonl,law/1.jsonl"
    other = steps.run(*more, f"sources.law.files={files}", "output=b")
    assert texts_of(tmp_path / "b") == texts_of(tmp_path / "out")
    # Examples, too: those of the smallest hashes.
    assert counts(other) == counts(first)


def test_what_is_kept_and_what_is_dropped_are_the_input(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    account = counts(steps.run(*more))
    before, kept = raw(tmp_path), texts_of(tmp_path / "out")
    dropped = sum(rule["dropped"] for rule in account["rules"].values())
    assert account["documents_in"] == before.total()
    assert account["documents_out"] == kept.total() == before.total() - dropped
    changed = {text.upper() for text in before}
    assert all(count <= before[text] or text in changed for text, count in kept.items())
    for rule in account["rules"].values():
        assert all(example["text"] in before for example in rule["examples"])
