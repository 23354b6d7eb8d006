# SPDX-License-Identifier: Apache-2.0
"""Documents get their EOS; fastokens is compared on the corpus, and left where it differs."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from megacpt.corpus.documents import Passage
from megacpt.errors import DataError
from megacpt.shards.manifest import BackendRecord, read_shard_manifest
from megacpt.shards.reader import IndexedShard
from megacpt.shards.tokenize import OnError, encode, tokenize
from megacpt.shards.tokenize.encode import DocumentEncoder, excerpts
from megacpt.shards.tokenize.join import merge
from megacpt.tokenizer import load_tokenizer
from megacpt.tokenizer.backend import Encoded, EncodeError, join
from megacpt.tokenizer.fast import FastBackend
from tests.corpus.cases import TINY, make, shard_bytes, words, write_jsonl

TOKENIZER = load_tokenizer(TINY)


def encoder(*, append_eos: bool = True) -> DocumentEncoder:
    return DocumentEncoder(
        TOKENIZER,
        fast=None,
        key="text",
        append_eos=append_eos,
        special=True,
        max_bytes=1 << 20,
        dtype=np.dtype("<u2"),
    )


def block(texts: Sequence[str]) -> Passage:
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    return Passage(extent=0, first_line=1, num_lines=len(texts), content=content, bytes_read=7)


TEXT = st.builds(str.__add__, st.text("ab é", max_size=5), st.sampled_from(["", "<eos>"]))


@given(texts=st.lists(TEXT))
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("append_eos", [True, False])
def test_rows_equal_the_plain_way(append_eos: bool, texts: list[str]) -> None:
    found = encoder(append_eos=append_eos).encode(block(texts), number=0)
    rows = [TOKENIZER.encode(text).tolist() for text in texts if text]
    if append_eos:
        rows = [row if row[-1] == TOKENIZER.eos_id else [*row, TOKENIZER.eos_id] for row in rows]
    assert found.tokens.tolist() == list(itertools.chain.from_iterable(rows))
    assert found.lengths.tolist() == [len(row) for row in rows]
    assert found.empty_documents == texts.count("")
    assert (found.tokens.dtype, found.lengths.dtype) == (np.uint16, np.int32)


def test_an_id_outside_the_vocabulary_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TOKENIZER.backend, "encode", lambda *_, **__: join([[257]]))
    with pytest.raises(DataError, match=r"made id 257, but its vocabulary has 257; its files"):
        encoder().encode(block(["a"]), number=0)


def test_excerpts_depend_on_the_input_alone_and_are_spread() -> None:
    texts = [str(n) * 500 for n in range(50)]
    found = [excerpts(texts, number=n) for n in range(30)]
    assert found == [excerpts(texts, number=n) for n in range(30)]
    assert [len(sample) for sample in found] == [4] + [2] * 29
    assert len({excerpt[0:2] for sample in found for excerpt in sample}) > 12
    assert all(0 < len(excerpt) <= 256 for sample in found for excerpt in sample)


def test_the_manifest_records_the_backend_and_the_proof(tmp_path: Path) -> None:
    manifest = make([write_jsonl(tmp_path / "a.jsonl", words(200))], tmp_path / "out")
    (backend,) = manifest.backends
    assert backend.name.startswith("fastokens ")
    assert backend.documents == manifest.documents
    assert backend.checked_documents >= 4
    assert backend.checked_bytes > 200


class WrongOnRareText(FastBackend):
    """As an implementation that fails on one word would be."""

    name = "fastokens 0.0"

    def __init__(self) -> None:
        pass

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        rows = TOKENIZER.backend.encode(texts, special=special).rows()
        return join(
            [row[::-1] if "rare" in text else row for row, text in zip(rows, texts, strict=True)]
        )


@pytest.fixture
def wrong_fastokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megacpt.shards.tokenize.runner.load_fast", lambda _: WrongOnRareText())


@pytest.mark.usefixtures("wrong_fastokens")
def test_a_difference_makes_all_of_it_be_done_again(tmp_path: Path) -> None:
    texts = [*["plain text " * 40] * 300, *["rare text " * 40] * 300]
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    told: list[str] = []
    manifest = make([source], tmp_path / "out", notice=told.append, piece_size=1 << 15)
    assert len(told) == 1
    assert "fastokens and tokenizers differ on this corpus (as on " in told[0]
    assert "rare" in told[0]
    assert [b.name.split()[0] for b in manifest.backends] == ["tokenizers"]
    assert manifest.backends[0].checked_documents == 0
    assert TOKENIZER.decode(TOKENIZER.encode("rare")) == "rare"
    make([source], tmp_path / "reference", tokenizer=TINY, piece_size=1 << 15)
    found, expected = shard_bytes(tmp_path / "out"), shard_bytes(tmp_path / "reference")
    assert found["bin"] == expected["bin"]


@pytest.mark.usefixtures("wrong_fastokens")
def test_a_difference_found_by_one_task_puts_back_the_pieces_of_others(tmp_path: Path) -> None:
    texts = [*["plain text " * 40] * 300, *["rare text " * 40] * 300]
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    options = {"tokenizer": TINY, "workers": 1, "output_prefix": tmp_path / "out"}
    options |= {"piece_size": 1 << 15}
    for k in (0, 5):
        tokenize([source], task=(k, 8), **options)
    with pytest.raises(DataError, match=r"lacks 7 of 8 pieces \(numbers 0, 1, 2, 3, 4, 6, 7\)"):
        merge(tmp_path / "out")
    manifest = make([source], tmp_path / "out", piece_size=1 << 15)
    assert [b.name.split()[0] for b in manifest.backends] == ["tokenizers"]


def test_without_fastokens_tokenizers_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(100))
    make([source], tmp_path / "fast")
    monkeypatch.setattr("megacpt.shards.tokenize.runner.load_fast", lambda _: None)
    manifest = make([source], tmp_path / "plain")
    assert manifest.backends == (
        BackendRecord(name=TOKENIZER.backend.name, documents=manifest.documents),
    )
    assert read_shard_manifest(tmp_path / "plain") == manifest
    assert shard_bytes(tmp_path / "fast")["bin"] == shard_bytes(tmp_path / "plain")["bin"]


def test_long_documents_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megacpt.shards.tokenize.piece_log.LONG_TOKENS", 50)
    source = write_jsonl(tmp_path / "a.jsonl", ["a" * 49, "b" * 50, "c" * 500])
    assert make([source], tmp_path / "out").long_documents == 2
    assert encode.LONG_TOKENS == 100_000


def folder_of(made: Tokenizer, *, folder: Path) -> Path:
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<e>"}')
    return folder


def letters(*, unknown: str) -> Tokenizer:
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.add_special_tokens(["<e>"])
    return made


def strict_unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], None, False))
    made.add_special_tokens(["<e>"])
    return made


def blank_tiktoken(folder: Path) -> Path:
    """Its pattern runs out of memory on a long run of blanks."""
    pytest.importorskip("tiktoken")
    path = folder / "q.tiktoken"
    lines = [base64.b64encode(bytes([n])) + b" %d" % n for n in range(256)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    settings = {"pattern": r"\s+(?!\S)|\s+|\S+", "special_tokens": {"<e>": 256}}
    Path(f"{path}.json").write_text(json.dumps(settings | {"eos_token": "<e>"}))
    return path


FAILING = {
    "Unigram": lambda folder: folder_of(strict_unigram(), folder=folder / "u"),
    "WordLevel": lambda folder: folder_of(letters(unknown="<none>"), folder=folder / "w"),
    "tiktoken": blank_tiktoken,
}


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_text_that_cannot_be_encoded_is_a_bad_line(kind: str, form: str, tmp_path: Path) -> None:
    bad = " " * 1_200_000 + "x" if kind == "tiktoken" else "z"
    texts = ["ab", "", bad, "ba", bad, "b"]
    source = write_jsonl(tmp_path / "x.jsonl", texts)
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        source = tmp_path / "x.parquet"
        parquet.write_table(pytest.importorskip("pyarrow").table({"text": texts}), source)
    tokenizer = load_tokenizer(FAILING[kind](tmp_path))
    made = make([source], tmp_path / "out", tokenizer=tokenizer, on_error=OnError.quarantine)
    assert (made.documents, made.empty_documents, made.errors) == (3, 1, {"not_encoded": 2})
    quarantine = Path(f"{tmp_path}/out.quarantine.jsonl").read_text()
    kept = [json.loads(line) for line in quarantine.splitlines()]
    assert [(line["line"], line["kind"]) for line in kept] == [(n, "not_encoded") for n in (3, 5)]
    assert all("cannot be encoded by " in line["problem"] for line in kept)
    shard = IndexedShard(tmp_path / "out")
    rows = [tokenizer.encode(text).tolist() for text in ("ab", "ba", "b")]
    found = [shard.document(n).tolist() for n in range(3)]
    assert found == [[*row, tokenizer.eos_id] for row in rows]
    with pytest.raises(DataError, match=rf"x\.{form}:3: cannot be encoded by .*; remove it"):
        make([source], tmp_path / "stop", tokenizer=tokenizer)


def test_nothing_but_bad_lines_is_told(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "x.jsonl", ["z", "z"])
    tokenizer = load_tokenizer(FAILING["Unigram"](tmp_path))
    with pytest.raises(DataError, match=r"x\.jsonl: all 2 bad lines are not_encoded"):
        make([source], tmp_path / "out", tokenizer=tokenizer, on_error=OnError.skip)


class FailsOnRareText(WrongOnRareText):
    """As an implementation that gives up on one word would be."""

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        if any("rare" in text for text in texts):
            raise EncodeError("no")
        return TOKENIZER.backend.encode(texts, special=special)


def test_what_only_fastokens_cannot_encode_is_no_bad_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megacpt.shards.tokenize.runner.load_fast", lambda _: FailsOnRareText())
    source = write_jsonl(tmp_path / "x.jsonl", ["plain", "rare", "plain"])
    told: list[str] = []
    made = make([source], tmp_path / "out", notice=told.append)
    assert (made.documents, made.errors) == (3, {})
    assert [backend.name.split()[0] for backend in made.backends] == ["tokenizers"]
    assert "differ on this corpus (as on 'rare')" in told[0]


def with_bos() -> Tokenizer:
    made = letters(unknown="<e>")
    made.normalizer = normalizers.Strip()
    made.add_special_tokens(["<s>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="$A $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return made


def sentencepiece_model(folder: Path) -> Path:
    (folder / "c.txt").write_text("ab ba bab\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "c.txt"), model_prefix=str(folder / "sp"), vocab_size=9, minloglevel=2
    )
    return folder / "sp.model"


def stripping(folder: Path) -> Path:
    made = letters(unknown="<e>")
    made.normalizer = normalizers.Strip()
    return folder_of(made, folder=folder / "s")


EMPTYING = {
    "BOS": lambda folder: folder_of(with_bos(), folder=folder / "b"),
    "SentencePiece": sentencepiece_model,
    "Strip": stripping,
}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", EMPTYING)
def test_a_text_without_ids_is_empty(kind: str, special: bool, tmp_path: Path) -> None:
    """Megatron-LM ends a document only where there are ids (tools/preprocess_data.py)."""
    source = write_jsonl(tmp_path / "x.jsonl", ["ab", "   ", "", "ba"])
    tokenizer = load_tokenizer(EMPTYING[kind](tmp_path))
    made = make([source], tmp_path / "out", tokenizer=tokenizer, special=special)
    assert (made.documents, made.empty_documents) == (2, 2)
    shard = IndexedShard(tmp_path / "out")
    expected = [tokenizer.encode(t, special=special).tolist() for t in ("ab", "ba")]
    found = [shard.document(n).tolist() for n in range(2)]
    assert found == [[*row, tokenizer.eos_id] for row in expected]


def test_a_tokenizer_without_an_end_says_what_to_do(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "x.jsonl", ["ab"])
    (tmp_path / "c.txt").write_text("ab ba bab\n" * 50)
    options = {"input": str(tmp_path / "c.txt"), "model_prefix": str(tmp_path / "sp")}
    sentencepiece.SentencePieceTrainer.train(**options, vocab_size=8, minloglevel=2, eos_id=-1)
    bare = folder_of(strict_unigram(), folder=tmp_path / "u")
    (bare / "tokenizer_config.json").unlink()
    tiktoken = blank_tiktoken(tmp_path)
    settings = '{"pattern": ".", "special_tokens": {}}'
    for tokenizer, remedy in (
        (load_tokenizer(tmp_path / "sp.model"), "it was trained with eos_id=-1. Give the Hugging"),
        (load_tokenizer(bare), "set eos_token in its tokenizer_config.json"),
        (load_tokenizer(tiktoken, settings=settings), "name it as eos_token in its settings"),
    ):
        with pytest.raises(DataError, match=rf"no end-of-text .*apart; {remedy}.* With --no-eos"):
            make([source], tmp_path / "out", tokenizer=tokenizer)
