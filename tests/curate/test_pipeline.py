# SPDX-License-Identifier: Apache-2.0
"""A corpus through steps to a folder with the account of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from megacpt.corpus.curation import Curation
from megacpt.curate import pipeline
from megacpt.curate.apply import apply_step
from megacpt.curate.config import read_config
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, changed, dropped, is_trained_on
from megacpt.errors import ConfigError, DataError, EnvironmentError_
from tests.corpus.cases import write_jsonl


@dataclass(frozen=True, kw_only=True)
class Shout:
    """Drops short texts, and writes those with a 3 in capitals."""

    name: str = "deduplicate"
    threads_max: int = 2

    def to_json(self) -> dict[str, Any]:
        return {"least": 20}

    def concerns(self, source: TextSource) -> bool:
        return is_trained_on(source)

    def open(self) -> Judge:
        return judge


def judge(batch: DocumentBatch) -> Sequence[DocumentVerdict]:
    found = []
    for document in batch.documents:
        if len(document.text) < 20:
            found.append(dropped("short", length=len(document.text)))
        elif "3" in document.text:
            found.append(changed(document.with_text(document.text.upper()), rule="three"))
        else:
            found.append(KEPT)
    return found


def run(corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome:
    return apply_step(corpus, step=Shout(), context=context)


@pytest.fixture(autouse=True)
def shout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pipeline.RUN, "deduplicate", run)


TEXTS = [f"document {n} " * (n % 7 + 1) for n in range(100)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "law.jsonl", TEXTS)
    (tmp_path / "late.txt").write_text("held out")
    return tmp_path


def settings(raw: Path, *more: str, output: str = "out") -> list[str]:
    return [
        f"output={raw / output}",
        f"sources.law.files={raw / 'law.jsonl'}",
        f"sources.late.files={raw / 'late.txt'}",
        "sources.late.kind=heldout",
        "deduplicate.exact=true",
        *more,
    ]


def curate(raw: Path, *more: str, output: str = "out", dry_run: bool = False) -> Curation:
    config = read_config(None, overrides=settings(raw, *more, output=output))
    return pipeline.curate(config, dry_run=dry_run)


def expected() -> list[str]:
    return [t.upper() if "3" in t else t for t in TEXTS if len(t) >= 20]


def test_what_is_left_and_the_account_of_it(raw: Path) -> None:
    found = curate(raw, "form=jsonl")
    lines = (raw / "out" / "law" / "00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == expected()
    assert (raw / "out" / "late" / "00000.jsonl").is_file()
    assert Curation.read(raw / "out") == found
    counts = found.steps[0].counts["law"]
    assert (counts["documents_in"], counts["documents_out"]) == (100, len(expected()))
    assert counts["rules"]["short"]["dropped"] == 100 - len(expected())
    assert len(counts["rules"]["short"]["examples"]) == 10
    assert not (raw / "out.work").exists()


def test_all_forms_hold_the_same(raw: Path) -> None:
    curate(raw, "form=parquet", output="rows")
    rows = parquet.read_table(raw / "rows" / "law").to_pylist()
    assert [row["text"] for row in rows] == expected()
    curate(raw, "form=jsonl_zst", output="packed")
    # Each is read again by what tokenizes it.
    for output in ("rows", "packed"):
        again = curate(raw, f"sources.law.files={raw / output / 'law'}", output=f"{output}2")
        assert again.sources["law"].documents == len(expected())
        assert [step.name for step in again.sources["law"].history] == ["deduplicate"]


def test_a_dry_run_leaves_nothing(raw: Path) -> None:
    found = curate(raw, dry_run=True)
    assert found.steps[0].counts["law"]["documents_out"] == len(expected())
    assert sorted(path.name for path in raw.iterdir()) == ["late.txt", "law.jsonl"]


def test_text_that_was_changed_afterwards_is_refused(raw: Path) -> None:
    curate(raw, "form=jsonl")
    part = raw / "out" / "law" / "00000.jsonl"
    part.write_text(part.read_text() + '{"text": "one more"}\n')
    with pytest.raises(DataError, match=r"00000.jsonl is not as .*curation.json says; restore it"):
        curate(raw, f"sources.law.files={part}", output="again")


def test_an_account_that_was_edited_is_refused(raw: Path) -> None:
    curate(raw)
    path = raw / "out" / "curation.json"
    path.write_text(path.read_text().replace('"least": 20', '"least": 2'))
    with pytest.raises(DataError, match="was changed after it was written"):
        Curation.read(raw / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["deduplicat.exact=true"], r"deduplicat=.* is not a setting"),
        (["deduplicate.near.threshold=1.5"], r"deduplicate.near.threshold=1.5 is outside"),
        (["output"], r"output is no setting; write KEY=VALUE"),
        (["sources.law.kind=main"], r"sources.law.kind=main is not one of the allowed values"),
    ],
)
def test_bad_settings(raw: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(None, overrides=[*settings(raw), *words])


def test_nothing_is_written_over(raw: Path) -> None:
    (raw / "out").mkdir()
    (raw / "out" / "mine").write_text("")
    with pytest.raises(EnvironmentError_, match="nothing is written over"):
        curate(raw)


def test_a_line_that_is_no_document_is_told_in_the_words_of_the_settings(raw: Path) -> None:
    (raw / "law.jsonl").write_text('{"text": "one"}\n{"body": "two"}\n')
    with pytest.raises(DataError) as caught:
        curate(raw)
    message = str(caught.value)
    assert "law.jsonl:2: has no key 'text'; its keys are: body. Set sources.law.key." in message
    assert "Leave such lines out with on_error=skip, or quarantine" in message
    assert "--" not in message
