# SPDX-License-Identifier: Apache-2.0
"""Files as people have them: every kind gives the documents that another reader finds in it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tokenizers
from pyarrow import parquet as pq

from megacpt.cli import main
from megacpt.corpus.documents import OnError
from megacpt.errors import DataError
from megacpt.shards.reader import IndexedShard
from megacpt.shards.tokenize import tokenize
from tests.corpus.cases import TINY, decoded, make

TEXTS = ["A river.", 'Two\nlines, "quoted" and\ttabbed', "naïve 日本", "\u2028 odd", "x" * 3000]
BOM = b"\xef\xbb\xbf"


def written(folder: Path, kind: str) -> Path:
    """A file of this kind that holds TEXTS."""
    path = folder / f"a.{kind}"
    rows = [{"id": n, "text": text} for n, text in enumerate(TEXTS)]
    match kind.split(".")[0]:
        case "json" | "JSON":
            content = json.dumps(rows, indent=1 if kind == "json" else None).encode()
            path.write_bytes(gzip.compress(BOM + content) if kind.endswith("gz") else content)
        case "csv" | "tsv":
            with path.open("w", newline="", encoding="utf-8-sig") as stream:
                table = csv.writer(stream, delimiter="\t" if kind == "tsv" else ",")
                table.writerows([("id", "text"), *(tuple(row.values()) for row in rows)])
        case _:
            pq.write_table(pa.table({"text": pa.array(TEXTS).dictionary_encode()}), path)
    return path


@pytest.mark.parametrize("kind", ["json", "json.gz", "JSON", "csv", "tsv", "parquet", "Parquet"])
def test_every_kind_gives_its_texts_and_the_same_bytes_again(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    told: list[str] = []
    manifest = make([path], tmp_path / "out", notice=told.append)
    assert decoded(tmp_path / "out") == TEXTS
    assert manifest.inputs[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    # A run that was interrupted after its pieces: they are used again.
    tokenize([path], tokenizer=TINY, output_prefix=tmp_path / "again", task=(0, 1))
    make([path], tmp_path / "again", notice=told.append)
    assert any("pieces are there already" in line for line in told)
    for kind in ("bin", "idx"):
        made = (tmp_path / f"again.{kind}").read_bytes()
        assert made == (tmp_path / f"out.{kind}").read_bytes()


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.TXT", "a.rst.gz", "a.jsonl", "a.csv", "a.json"]
)
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, name: str) -> None:
    content = {
        "a.jsonl": b'{"text":"A river."}\n',
        "a.csv": b"text\nA river.\n",
        "a.json": b'[{"text":"A river."}]',
    }.get(name, b"A river.")
    path = tmp_path / name
    path.write_bytes(gzip.compress(BOM + content) if name.endswith("gz") else BOM + content)
    make([path], tmp_path / "out")
    assert decoded(tmp_path / "out") == ["A river."]


def test_only_the_first_mark_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BOM + b"a" + BOM)
    assert (tmp_path / "a.txt").read_text("utf-8-sig") == "a\ufeff"
    make([tmp_path / "a.txt"], tmp_path / "out")
    assert decoded(tmp_path / "out") == ["a\ufeff"]


def words_tokenizer(folder: Path) -> Path:
    """A BPE model whose ids differ where sentences meet, with BOS by its own rule."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the river and the hill " * 9], trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


SENTENCES: list[list[Any]] = [
    [["the ri", "ver"], ["hill"]],
    [["the", "", " river"], "the river", [], [""]],
    [["a"] * 50, ["the river and", " the hill", "\n"]],
]


@pytest.mark.parametrize("documents", SENTENCES)
@pytest.mark.parametrize("special", [True, False])
def test_sentences_are_encoded_one_by_one_as_megatron_lm_does(
    tmp_path: Path, documents: list[Any], special: bool
) -> None:
    folder = words_tokenizer(tmp_path / "tokenizer")
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = []
    for document in documents:
        # What its preprocess_data does: ids of each sentence, then one EOS if there are any.
        sentences = [document] if isinstance(document, str) else document
        rows = [reference.encode(s, add_special_tokens=special).ids for s in sentences if s]
        if ids := list(itertools.chain.from_iterable(rows)):
            expected.append([*ids, 1])
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": d, "n": 1}) + "\n" for d in documents))
    rows = [[d] if isinstance(d, str) else d for d in documents]
    pq.write_table(
        pa.table({"text": pa.array(rows, pa.list_(pa.string()))}), tmp_path / "b.parquet"
    )
    for name in ("a.jsonl", "b.parquet"):
        manifest = make([tmp_path / name], tmp_path / "out", tokenizer=folder, special=special)
        shard = IndexedShard(tmp_path / "out")
        assert [shard.document(n).tolist() for n in range(shard.num_documents)] == expected
        assert manifest.empty_documents == len(documents) - len(expected)


UNTRUSTED = [
    b'{"\\ud83d": 1}',
    b'{"a\\udfff": {"\\ud800": 2}}',
    b'{"text": "\\ud83d", "\xc3\xa9": 1}',
]


@pytest.mark.parametrize("line", UNTRUSTED)
@pytest.mark.parametrize(
    "name", [b"x.jsonl", b"caf\xe9.jsonl", b"\xff\xfe.JSONL", "naïve.jsonl".encode()]
)
def test_whatever_is_set_aside_is_written_and_found_again(
    tmp_path: Path, name: bytes, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    path = source / os.fsdecode(name)
    path.write_bytes(b'{"text":"ok"}\n' + line + b"\n")
    words = ["tokenize", str(source), "--tokenizer", str(TINY), "--output", str(tmp_path / "out")]
    for _ in range(2):
        assert main([*words, "--on-error", "quarantine"]) == 0
    (kept,) = (tmp_path / "out.quarantine.jsonl").read_bytes().splitlines()
    found = json.loads(kept.decode("utf-8"))
    assert os.fsencode(found["file"]) == os.fsencode(path)
    assert (found["line"], found["content"].encode()) == (2, line)
    assert main(["inspect", str(tmp_path / "out"), "--tokenizer", str(TINY)]) == 0
    assert main([*words, "--on-error", "stop"]) == 2
    assert "jsonl:2: " in capsys.readouterr().err.lower()


def test_the_first_bad_line_tells_how_many_more_there_are(tmp_path: Path) -> None:
    lines = [b'{"text": "a"}'] * 500
    for n, bad in ((7, b"{"), (8, b'{"body": 1}'), (300, b'{"text": null}'), (301, b"{")):
        lines[n] = bad
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "b.csv").write_bytes(b"id,text\n1,a,b\n2\n3,fine\n")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "a"}\n{"body": 1}\n')
    for name, message in {
        "a.jsonl": r"a.jsonl:8: .* Of 500 lines read together 4 are bad: 2 broken_json, 1 no_key "
        r"and 1 no_text. Leave",
        "b.csv": r"b.csv:2: has 3 fields, .* Of 4 lines read together 2 are bad: 2 broken_record.",
        "c.jsonl": r"c.jsonl:2: .* Of 2 lines read together no other is bad.",
    }.items():
        with pytest.raises(DataError, match=message):
            make([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("policy", [OnError.skip, OnError.quarantine])
def test_a_column_of_no_text_is_never_left_out_in_silence(tmp_path: Path, policy: OnError) -> None:
    columns: list[Any] = [pa.array([1, 2]), pa.array([{"a": "b"}] * 2), pa.array([True, False])]
    for column in columns:
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        (tmp_path / "b.txt").write_text("fine")
        with pytest.raises(DataError, match=r"a.parquet: column 'text' is of type"):
            make([tmp_path / "b.txt", tmp_path / "a.parquet"], tmp_path / "out", on_error=policy)
    pq.write_table(pa.table({"text": pa.nulls(2)}), tmp_path / "a.parquet")
    manifest = make([tmp_path / "b.txt", tmp_path / "a.parquet"], tmp_path / "out", on_error=policy)
    assert manifest.errors == {"no_text": 2}
    with pytest.raises(DataError, match=r"the corpus is empty \(.*2 bad lines are no_text"):
        make([tmp_path / "a.parquet"], tmp_path / "out", on_error=policy)
