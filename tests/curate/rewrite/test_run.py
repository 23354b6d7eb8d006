# SPDX-License-Identifier: Apache-2.0
"""The step as a whole: records of all kinds of files through it, alone and after others."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import tokenizers

from megacpt.corpus.curation import Curation
from megacpt.corpus.documents import OnError
from megacpt.curate import pipeline
from megacpt.curate.apply import apply_step
from megacpt.curate.config import read_config
from megacpt.curate.context import Context, StepOutcome
from megacpt.curate.documents import DocumentBatch
from megacpt.curate.sources import Corpus, TextSource
from megacpt.curate.step import KEPT, DocumentVerdict, Judge, changed, dropped
from megacpt.errors import ConfigError, DataError
from megacpt.shards.reader import IndexedShard
from tests.corpus.cases import make
from tests.curate.rewrite.test_fill import with_tokens

ROWS: list[dict[str, Any]] = [
    {"question": f"What is the root of {n * n}?", "answer": f"It is {n}.", "score": n}
    for n in range(200)
]
PLAIN = [{"text": f"A text of its own, number {n}."} for n in range(20)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def curate(folder: Path, *words: str, output: str = "out", dry_run: bool = False) -> Curation:
    config = read_config(None, overrides=[f"output={folder / output}", "form=jsonl", *words])
    return pipeline.curate(config, dry_run=dry_run)


def read(folder: Path, source: str = "qa") -> list[dict[str, Any]]:
    parts = sorted((folder / source).iterdir())
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def qa(folder: Path, *more: str, rows: Sequence[dict[str, Any]] = ROWS) -> list[str]:
    path = write(folder / "qa.jsonl", rows)
    return [f"sources.qa.files={path}", "sources.qa.shape=auto", "rewrite.seed=0", *more]


def test_records_become_text_and_their_fields_go(tmp_path: Path) -> None:
    found = curate(tmp_path, *qa(tmp_path))
    for row, document in zip(ROWS, read(tmp_path / "out"), strict=True):
        assert document["text"] in {
            f"{row['question']}\n\n{row['answer']}",
            f"{row['question']} {row['answer']}",
            f"## {row['question']}\n\n{row['answer']}",
        }
        assert set(document) == {"id", "text", "score", "rewritten"}
        assert document["score"] == row["score"]
    rules = found.steps[0].counts["qa"]["rules"]
    assert {f"question.{name}" for name in ("heading", "paragraphs", "sentence")} == set(rules)
    assert sum(rule["documents"] for rule in rules.values()) == len(ROWS)
    example = rules["question.sentence"]["examples"][0]
    assert example["after"] == example["text"].replace("\n", " ")


def test_all_kinds_of_files_hold_the_same(tmp_path: Path) -> None:
    """CSV and Parquet, also with columns that JSON lacks, written by their own libraries."""
    table = arrow.Table.from_pylist(ROWS).append_column(
        "picture", arrow.array([b"\x89PNG\xff"] * len(ROWS))
    )
    parquet.write_table(table, tmp_path / "qa.parquet", row_group_size=37)
    with (tmp_path / "qa.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["question", "answer", "score"])
        writer.writeheader()
        writer.writerows(ROWS)
    (tmp_path / "qa.json").write_text(json.dumps(ROWS, indent=1))
    curate(tmp_path, *qa(tmp_path))
    wanted = read(tmp_path / "out")
    for kind in ("parquet", "csv", "json"):
        words = [f"sources.qa.files={tmp_path / 'qa'}.{kind}", *qa(tmp_path)[1:]]
        curate(tmp_path, *words, output=kind)
        found = read(tmp_path / kind)
        assert [d["text"] for d in found] == [d["text"] for d in wanted], kind
        assert [d["id"] for d in found] == [d["id"] for d in wanted], kind
        assert [int(d["score"]) for d in found] == [d["score"] for d in wanted], kind


def test_messages_of_parquet_are_records(tmp_path: Path) -> None:
    """As the library datasets writes them: structs, whose missing fields are null."""
    said = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "name": "x"},
    ]
    parquet.write_table(arrow.Table.from_pylist([{"messages": said}]), tmp_path / "chat.parquet")
    curate(
        tmp_path,
        f"sources.qa.files={tmp_path / 'chat.parquet'}",
        "sources.qa.shape=dialogue",
        "rewrite.seed=0",
    )
    (document,) = read(tmp_path / "out")
    assert document["text"] in {"Hi\n\nHello", "\u2013 Hi\n\n\u2013 Hello", "*Hi*\n\nHello"}


@pytest.mark.parametrize("workers", [1, 4])
def test_order_and_workers_do_not_matter(tmp_path: Path, workers: int) -> None:
    curate(tmp_path, *qa(tmp_path))
    wanted = {d["id"]: d for d in read(tmp_path / "out")}
    curate(tmp_path, *qa(tmp_path, f"workers={workers}", rows=ROWS[::-1]), output="again")
    assert {d["id"]: d for d in read(tmp_path / "again")} == wanted


def test_rewriting_twice_changes_nothing(tmp_path: Path) -> None:
    marks = {"question": "Human: Is it said?\nAssistant: Yes.\nWho says it?", "answer": "Bob."}
    curate(tmp_path, *qa(tmp_path, rows=[*ROWS, marks]))
    curate(
        tmp_path,
        f"sources.qa.files={tmp_path / 'out' / 'qa'}",
        "rewrite.templates=english",
        output="again",
    )
    assert read(tmp_path / "again") == read(tmp_path / "out")


def test_the_step_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which sees all that a record says, while what it leaves is still a record."""
    monkeypatch.setitem(pipeline.RUN, "deduplicate", run_drop)
    curate(tmp_path, *qa(tmp_path, "deduplicate.exact=true"))
    found = read(tmp_path / "out")
    assert len(found) == len([row for row in ROWS if "7" not in row["answer"]])
    alone = tmp_path / "alone"
    alone.mkdir()
    curate(alone, *qa(alone))
    texts = {d["id"]: d["text"] for d in read(alone / "out")}
    assert all(texts[d["id"]] == d["text"] for d in found)


def test_what_an_earlier_step_has_cut_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_cut(corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome:
        return apply_step(corpus, step=Cut(), context=context)

    monkeypatch.setitem(pipeline.RUN, "deduplicate", run_cut)
    found = curate(tmp_path, *qa(tmp_path, "deduplicate.exact=true"))
    texts = [d["text"] for d in read(tmp_path / "out")]
    sevens = [row for row in ROWS if "7" in row["answer"]]
    assert not any(row["answer"] in text for row in sevens for text in texts)
    rules = found.steps[1].counts["qa"]["rules"]
    assert rules["question as an earlier step left it"]["documents"] == len(sevens)


class Drop:
    name, threads_max = "deduplicate", 1

    def to_json(self) -> dict[str, Any]:
        return {}

    def concerns(self, source: TextSource) -> bool:
        return True

    def open(self) -> Judge:
        return drop_sevens


class Cut(Drop):
    def open(self) -> Judge:
        return cut_sevens


def cut_sevens(batch: DocumentBatch) -> Sequence[DocumentVerdict]:
    found = []
    for document in batch.documents:
        question, answer = document.text.split("\n")
        is_cut = "7" in answer
        cut = document.with_text(f"{question}\n[cut]")
        found.append(changed(cut, rule="seven") if is_cut else KEPT)
    return found


def drop_sevens(batch: DocumentBatch) -> Sequence[DocumentVerdict]:
    answers = [document.text.split("\n")[1] for document in batch.documents]
    return [dropped("seven") if "7" in answer else KEPT for answer in answers]


def run_drop(corpus: Corpus, *, settings: Any, context: Context) -> StepOutcome:
    return apply_step(corpus, step=Drop(), context=context)


def test_raw_pairs_are_kept_if_asked(tmp_path: Path) -> None:
    curate(tmp_path, *qa(tmp_path, "rewrite.raw_pairs=allow"))
    found = read(tmp_path / "out")
    assert [d["text"] for d in found] == [f"{r['question']}\n{r['answer']}" for r in ROWS]
    assert all(set(d) == {"id", "text", "score"} for d in found)


def test_texts_beside_records_stay_and_marks_go(tmp_path: Path) -> None:
    marked = {"text": "### Human: Hi### Assistant: Hello"}
    curate(tmp_path, *qa(tmp_path, rows=[*PLAIN, marked]))
    *plain, told = read(tmp_path / "out")
    assert [d["text"] for d in plain] == [d["text"] for d in PLAIN]
    assert "#" not in told["text"]
    assert "Hello" in told["text"]


def test_held_out_texts_stay_and_held_out_records_do_not(tmp_path: Path) -> None:
    marked = write(tmp_path / "marked.jsonl", [{"text": "### Human: Hi### Assistant: Hello"}])
    words = [f"sources.late.files={marked}", "sources.late.kind=heldout"]
    curate(tmp_path, *qa(tmp_path, "sources.qa.kind=heldout"), *words)
    assert read(tmp_path / "out", "late")[0]["text"] == "### Human: Hi### Assistant: Hello"
    assert all("rewritten" in document for document in read(tmp_path / "out"))


def test_what_has_no_answer_is_left_out(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "answer": ""}, {"messages": [{"role": "user", "content": "Hi"}]}]
    found = curate(tmp_path, *qa(tmp_path, rows=[*rows, *ROWS]))
    rules = found.steps[0].counts["qa"]["rules"]
    assert rules["question without an answer"]["dropped"] == 1
    assert rules["dialogue without an answer"]["dropped"] == 1
    assert len(read(tmp_path / "out")) == len(ROWS)


def test_a_record_without_its_shape_named_says_which_it_has(tmp_path: Path) -> None:
    words = [word for word in qa(tmp_path) if "shape" not in word]
    with pytest.raises(DataError, match=r"no key 'text'.* It is a question: set .*shape=question"):
        curate(tmp_path, *words)
    with pytest.raises(DataError, match=r"nor is it a record of shape table|shape=question"):
        curate(tmp_path, *words, "sources.qa.shape=dialogue")


def test_bad_lines_go_by_their_policies(tmp_path: Path) -> None:
    words = qa(tmp_path)
    path = tmp_path / "qa.jsonl"
    bad = ['{"a": 1}', "{", '{"question": "\\ud800", "answer": "x"}', "[1]"]
    path.write_text("\n".join([*bad, path.read_text()]))
    with pytest.raises(DataError, match=r"qa.jsonl:1: has no key 'text'"):
        curate(tmp_path, *words)
    found = curate(tmp_path, *words, f"on_error={OnError.skip.value}")
    assert found.steps[0].counts["qa"]["errors"] == {
        "no_key": 2,
        "broken_json": 1,
        "no_object": 1,
    }
    assert len(read(tmp_path / "out")) == len(ROWS)


def code(folder: Path, *more: str) -> list[str]:
    tokenizer = with_tokens(folder / "tokenizer", "<PRE>", "<SUF>", "<MID>")
    section = "rewrite.fill_in_the_middle"
    return [
        f"sources.code.files={write(folder / 'code.jsonl', PLAIN * 20)}",
        f"{section}.sources=code",
        f"{section}.tokenizer={tokenizer}",
        *(f"{section}.{name}=<{name[:3].upper()}>" for name in ("prefix", "suffix", "middle")),
        *more,
    ]


def test_the_middle_of_code_alone_is_moved(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"x = {n}\n" * 5} for n in range(400)]
    words = code(tmp_path)
    write(tmp_path / "code.jsonl", rows)
    curate(tmp_path, *qa(tmp_path), *words)
    found = read(tmp_path / "out", "code")
    moved = [d for d in found if "<PRE>" in d["text"]]
    assert 150 < len(moved) < 250
    assert all(d["rewritten"]["middle"] in ("psm", "spm") for d in moved)
    assert not any("<PRE>" in d["text"] for d in read(tmp_path / "out"))
    curate(tmp_path, f"sources.code.files={tmp_path / 'out' / 'code'}", *words[1:], output="again")
    again = read(tmp_path / "again", "code")
    assert [d for d in again if d["id"] in {m["id"] for m in moved}] == moved


def test_the_shard_has_the_tokens_of_fill_in_the_middle(tmp_path: Path) -> None:
    """As tokenizers itself encodes the three, each once in a document whose middle was moved."""
    curate(tmp_path, *code(tmp_path, "rewrite.fill_in_the_middle.rate=1"))
    make([tmp_path / "out" / "code"], tmp_path / "shard", tokenizer=tmp_path / "tokenizer")
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    pre, suf, mid = (reference.token_to_id(token) for token in ("<PRE>", "<SUF>", "<MID>"))
    shard = IndexedShard(tmp_path / "shard")
    assert shard.num_documents == 20 * len(PLAIN)
    for n, document in enumerate(read(tmp_path / "out", "code")):
        ids = shard.document(n).tolist()
        found = [token for token in ids if token in (pre, suf, mid)]
        assert found == [pre, suf, mid]
        is_spm = ids[1] == suf and document["rewritten"]["middle"] == "spm"
        assert ids[0] == pre
        assert is_spm or document["rewritten"]["middle"] == "psm"


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"middle.sources=cod: cod is no source .*there is code"):
        curate(tmp_path, *code(tmp_path, "rewrite.fill_in_the_middle.sources=cod"))
