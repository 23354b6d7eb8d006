# SPDX-License-Identifier: Apache-2.0
"""Loading a tokenizer: special tokens, no silent truncation, a word about broken folders."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.errors import ModelError
from megacpt.tokenizer import load_tokenizer

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of 256 bytes and <eos>, without any file that names its special tokens."""
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    return tmp_path


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def test_size_and_fingerprint(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 257
    content = (folder / "tokenizer.json").read_bytes()
    assert tokenizer.fingerprint == hashlib.sha256(content).hexdigest()
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (None, None, None)


@given(text=st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_decode_undoes_encode(text: str) -> None:
    tokenizer = load_tokenizer(TINY)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_batch_is_its_texts(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    texts = ["one", "", "two and three"]
    rows = tokenizer.encode_batch(texts)
    assert [row.tolist() for row in rows] == [tokenizer.encode(t).tolist() for t in texts]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"eos_token": "<eos>"}),
        ("tokenizer_config.json", {"eos_token": {"content": "<eos>", "lstrip": False}}),
        ("special_tokens_map.json", {"eos_token": "<eos>"}),
        ("generation_config.json", {"eos_token_id": [256, 3]}),
        ("config.json", {"eos_token_id": 256}),
    ],
)
def test_eos_is_found_wherever_it_is_named(
    folder: Path, file: str, content: dict[str, Any]
) -> None:
    write(folder / file, content)
    assert load_tokenizer(folder).eos_id == 256


def test_the_tokenizer_s_own_word_comes_first(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"eos_token": "<eos>", "pad_token": None})
    write(folder / "config.json", {"eos_token_id": 7, "pad_token_id": -1, "bos_token_id": 5})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (256, None, 5)


def test_stored_truncation_and_padding_are_not_applied(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    write(path, content)
    assert load_tokenizer(folder).encode("abcd").size == 4


def add_bos(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<eos>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [256], "tokens": ["<eos>"]}},
    }
    write(path, content)


def test_special_tokens_are_the_post_processor_s(folder: Path) -> None:
    add_bos(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("!")[0] == 256
    assert tokenizer.encode("!", special=False).size == 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone does not exist; give the Hugging Face folder"):
        load_tokenizer(tmp_path / "gone")


def test_a_folder_without_tokenizer_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer.json; write one with .*AutoTokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": 3}', b"\xff\xfe"])
def test_a_broken_tokenizer_is_named(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer.json is not a tokenizer .* copy the file"):
        load_tokenizer(folder)


def test_a_tokenizer_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(ModelError, match=r"tokenizer.json cannot be read: Is a directory"):
        load_tokenizer(tmp_path)


def test_an_eos_of_another_tokenizer_is_named(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"eos_token": "</s>"})
    with pytest.raises(ModelError, match=r"eos_token='</s>' is not in the vocabulary"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read as JSON"), ("[]", "must hold a JSON object")]
)
def test_broken_neighbours_are_named(folder: Path, content: str, message: str) -> None:
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"tokenizer_config.json {message}"):
        load_tokenizer(folder)
