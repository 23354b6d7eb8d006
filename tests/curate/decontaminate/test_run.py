# SPDX-License-Identifier: Apache-2.0
"""A corpus without the benchmarks, and the account of what was in it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from megacpt.cli import main
from megacpt.commands.curate import suite_setting
from megacpt.corpus.curation import Curation, origin_of
from megacpt.corpus.not_learned import NOT_LEARNED
from megacpt.corpus.required import lacking
from megacpt.curate import pipeline
from megacpt.curate.config import read_config
from megacpt.curate.pipeline import Watcher
from megacpt.errors import ConfigError, DataError
from tests.corpus.cases import write_jsonl
from tests.curate.decontaminate.cases import Maker
from tools.bench.decontamination import planted

MAKER = Maker(11)
ITEMS = [MAKER.item(count) for count in (30, 15, 9, 6)]
CLEAN = [MAKER.text(200) for _ in range(60)]
DIRTY = [p.text for item in ITEMS for p in islice(planted(item, filler=MAKER), 6)]
QUESTION = ITEMS[0].question[0]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    texts = [*CLEAN[:30], *DIRTY, *CLEAN[30:]]
    write_jsonl(tmp_path / "law.jsonl", texts)
    write_jsonl(tmp_path / "late.jsonl", [f"before {QUESTION} after"])
    records = [
        {"question": item.question[0], "choices": item.options, "answer": item.answer[0]}
        for item in ITEMS
    ]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def curate(raw: Path, *more: str, output: str = "out", **options: Any) -> Curation:
    words = [
        f"output={raw / output}",
        "form=jsonl",
        f"sources.law.files={raw / 'law.jsonl'}",
        f"sources.late.files={raw / 'late.jsonl'}",
        "sources.late.kind=heldout",
        f"decontaminate.suites.quiz.path={raw / 'quiz.jsonl'}",
        *more,
    ]
    return pipeline.curate(read_config(None, overrides=words), **options)


def is_free_of(curation: Curation, *, suite: str) -> bool:
    """As ``data.require`` asks."""
    origin = origin_of("law", curation=curation, folder=Path())
    return not lacking(f"decontaminated:{suite}", origins=[origin])


def texts(raw: Path, *, source: str = "law", output: str = "out") -> list[str]:
    return [document["text"] for document in documents(raw, source=source, output=output)]


def documents(raw: Path, *, source: str = "law", output: str = "out") -> list[dict[str, Any]]:
    paths = sorted((raw / output / source).iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def report(raw: Path, *, output: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((raw / output / "decontamination.json").read_text())
    return found


def test_documents_are_dropped_and_counted(raw: Path) -> None:
    found = curate(raw)
    assert texts(raw) == CLEAN
    assert texts(raw, source="late") == [f"before {QUESTION} after"]
    told = report(raw)
    about = told["suites"]["quiz"]
    assert (about["items"], about["searched"], about["num_items_found"]) == (4, 4, 4)
    assert about["documents_found"]["question"] == len(DIRTY) == len(told["hits"])
    assert about["items_found"] == [0, 1, 2, 3]
    first = told["hits"][0]
    assert (first["source"], first["suite"], first["part"]) == ("law", "quiz", "question")
    step = found.steps[0]
    assert step.findings["suites"]["quiz"]["identity"] == about["identity"]
    assert step.counts["law"]["rules"]["quiz question"]["dropped"] == len(DIRTY)
    assert is_free_of(found, suite="quiz")
    assert is_free_of(found, suite=about["identity"])
    assert not is_free_of(found, suite="mmlu")


def test_curating_twice_changes_nothing(raw: Path) -> None:
    curate(raw)
    again = curate(raw, f"sources.law.files={raw / 'out' / 'law'}", output="again")
    assert texts(raw, output="again") == texts(raw)
    assert report(raw, output="again")["hits"] == []
    assert is_free_of(again, suite="quiz")


def test_what_was_found_is_cut_out(raw: Path) -> None:
    curate(raw, "decontaminate.action=cut")
    left = texts(raw)
    assert len(left) == len(CLEAN) + len(DIRTY)
    words = {word.strip(".,?").lower() for word in QUESTION.split()}
    assert not any(QUESTION in text for text in left)
    cut = next(text for text in left if text not in CLEAN)
    assert "Answer:" in cut
    assert not words <= set(cut.lower().split())
    curate(raw, "decontaminate.action=cut", f"sources.law.files={raw / 'out'}/law", output="again")
    assert texts(raw, output="again") == left


def test_a_text_that_is_nothing_else_goes_with_the_cut(raw: Path) -> None:
    write_jsonl(raw / "law.jsonl", [QUESTION.rstrip("?"), f"Asked: {QUESTION}"])
    found = curate(raw, "decontaminate.action=cut")
    assert texts(raw) == ["Asked: ?"]
    assert found.steps[0].counts["law"]["rules"]["quiz question"]["dropped"] == 1


def test_what_was_found_is_marked_as_not_learned(raw: Path) -> None:
    found = curate(raw, "decontaminate.action=mask")
    assert texts(raw) == [*CLEAN[:30], *DIRTY, *CLEAN[30:]]
    told = report(raw)
    for document in documents(raw):
        spans = document.get(NOT_LEARNED, [])
        hidden = [document["text"][start:stop] for start, stop in spans]
        hits = [hit["found"] for hit in told["hits"] if hit["id"] == document["id"]]
        assert bool(hits) == bool(hidden)
        assert all(any(hit in text for text in hidden) for hit in hits)
    assert is_free_of(found, suite="quiz")
    # Once more: the same is found, and nothing changes.
    curate(raw, "decontaminate.action=mask", f"sources.law.files={raw / 'out'}/law", output="again")
    assert documents(raw, output="again") == documents(raw)


@pytest.mark.parametrize(
    "words",
    [
        ["filter.pii={}", "filter.gopher=null", "filter.repetition=null"],
        ["deduplicate.lines={}", "deduplicate.near=null"],
    ],
)
def test_marked_texts_are_not_changed_afterwards(raw: Path, words: list[str]) -> None:
    marked = f"{QUESTION} Write to me@example.org. {CLEAN[0]}\n{CLEAN[2]}"
    write_jsonl(raw / "law.jsonl", [f"{CLEAN[1]} {CLEAN[3]} {CLEAN[4]}\n{CLEAN[2]}", marked])
    curate(raw, "decontaminate.action=mask")
    words = [*words, f"output={raw / 'again'}", f"sources.law.files={raw / 'out'}/law"]
    with pytest.raises(
        DataError, match=r"has spans that are not to be learned .* changes its text"
    ):
        pipeline.curate(read_config(None, overrides=words))
    assert not (raw / "again").exists()


def test_nothing_rewrites_marked_texts(raw: Path) -> None:
    with pytest.raises(ConfigError, match="rewrite, which comes after it, changes texts"):
        curate(raw, "decontaminate.action=mask", "rewrite={}")


def test_marks_need_lines_of_json(raw: Path) -> None:
    with pytest.raises(ConfigError, match=r"mask needs lines of JSON.*use form=jsonl_zst"):
        curate(raw, "decontaminate.action=mask", "form=parquet")


def test_a_report_changes_nothing_and_is_no_proof(raw: Path) -> None:
    found = curate(raw, "decontaminate.action=report")
    assert texts(raw) == [*CLEAN[:30], *DIRTY, *CLEAN[30:]]
    assert report(raw)["suites"]["quiz"]["documents_found"]["any"] == len(DIRTY)
    assert not is_free_of(found, suite="quiz")


def test_hits_are_bounded_and_the_rest_counted(raw: Path) -> None:
    curate(raw, "decontaminate.hits=3")
    told = report(raw)
    assert (len(told["hits"]), told["hits_left_out"]) == (3, len(DIRTY) - 3)
    # Which three does not depend on the order of the documents.
    write_jsonl(raw / "law.jsonl", [*DIRTY[::-1], *CLEAN])
    curate(raw, "decontaminate.hits=3", output="turned")
    assert report(raw, output="turned")["hits"] == told["hits"]
    assert sorted(texts(raw, output="turned")) == sorted(CLEAN)


def test_a_dry_run_leaves_nothing(raw: Path) -> None:
    before = sorted(path.name for path in raw.iterdir())
    found = curate(raw, dry_run=True)
    assert found.steps[0].findings["suites"]["quiz"]["num_items_found"] == 4
    assert sorted(path.name for path in raw.iterdir()) == before


class _Killed(BaseException):
    pass


def files_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_killed_and_on_other_workers_it_writes_the_same_bytes(raw: Path) -> None:
    long = MAKER.text(20_000)
    write_jsonl(raw / "law.jsonl", [f"{text} {n} {long}" for n, text in enumerate(DIRTY + CLEAN)])
    calls = 0

    def report(_bytes: int, *, documents: int, tokens: int = 0) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise _Killed

    curate(raw, "workers=1")
    with pytest.raises(_Killed):
        curate(raw, "workers=1", output="two", watcher=Watcher(begins=lambda *_, **__: report))
    assert list((raw / "two.work").rglob("*.notes.jsonl*"))
    curate(raw, "workers=2", output="two")
    one = files_of(raw / "out")
    assert len(json.loads(one["decontamination.json"])["hits"]) == len(DIRTY)
    assert files_of(raw / "two") == one


def test_a_step_without_suites_is_refused(raw: Path) -> None:
    config = read_config(
        None,
        overrides=[
            f"output={raw / 'out'}",
            f"sources.law.files={raw / 'law.jsonl'}",
            "decontaminate.words=13",
        ],
    )
    with pytest.raises(ConfigError, match=r"decontaminate.suites names no suite; name the bench"):
        pipeline.curate(config)
    assert not (raw / "out").exists()


def test_the_verb(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(raw / name) for name in ("law.jsonl", "late.jsonl")]
    words = ["--suite", str(raw / "quiz.jsonl"), "--output", str(raw / "out"), "action=cut"]
    assert main(["decontaminate", *files, *words, "form=jsonl", "whole_words=7"]) == 0
    assert Curation.read(raw / "out").steps[0].settings["action"] == "cut"
    shown = capsys.readouterr().out
    assert "quiz question" in shown
    assert "decontamination.json" in shown
    left = texts(raw, source="text")
    assert len(left) == len(CLEAN) + len(DIRTY) + 1
    assert any(ITEMS[3].question[0] in text for text in left)  # Of six words.


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("mmlu", "suites.mmlu.path=mmlu"),
        ("tests/my exam.v2.jsonl", "suites.my_exam.path=tests/my exam.v2.jsonl"),
        ("bar=a/b.yaml", "suites.bar.path=a/b.yaml"),
    ],
)
def test_names_of_suites(word: str, setting: str) -> None:
    assert suite_setting(word) == setting
