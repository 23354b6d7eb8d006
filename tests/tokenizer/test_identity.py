# SPDX-License-Identifier: Apache-2.0
"""A tokenizer.json is the same whoever wrote it, and another one where its ids are others."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from megacpt.tokenizer import load_tokenizer
from tools.bench.tokenizer_folders import begins, byte_fallback, byte_level, unigram, words

Change = Callable[[dict[str, Any]], object]
BARE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def rotated(content: dict[str, Any]) -> None:
    """Other order of keys, in the vocabulary too."""
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))
    items = list(content.items())
    content.clear()
    content.update(reversed(items))


def limited(content: dict[str, Any]) -> None:
    limit = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["truncation"] = limit


def merges_as_text(content: dict[str, Any]) -> None:
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]


def without_defaults(content: dict[str, Any]) -> None:
    content["model"] = {k: v for k, v in content["model"].items() if v not in (None, False)}
    del content["version"]


def wrapped(content: dict[str, Any]) -> None:
    """A sequence of one step, and one step in it that adds nothing."""
    step = content["pre_tokenizer"]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step]}


SAME: dict[str, Change] = {
    "keys": rotated,
    "truncation": limited,
    "merges": merges_as_text,
    "defaults": without_defaults,
    "sequence": wrapped,
    "template": lambda content: content.update(post_processor=BARE),
    "dropout": lambda content: content["model"].update(dropout=0.1),
    "decoder": lambda content: content.update(decoder=None),
}


def identity(content: str, *, folder: Path) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(content)
    made = load_tokenizer(folder)
    return made.identity, made.fingerprint


@pytest.mark.parametrize("how", SAME)
def test_another_form_is_the_same_tokenizer(how: str, tmp_path: Path) -> None:
    made = byte_level()
    content = json.loads(made.to_str())
    SAME[how](content)
    one, first = identity(made.to_str(), folder=tmp_path / "one")
    other, second = identity(json.dumps(content, indent=1), folder=tmp_path / "other")
    assert one == other
    assert first != second


def other_merge(content: dict[str, Any]) -> None:
    content["model"]["merges"] = content["model"]["merges"][::-1]


def other_token(content: dict[str, Any]) -> None:
    content["added_tokens"][0]["lstrip"] = True


OTHER: dict[str, Change] = {
    "merges": other_merge,
    "added": other_token,
    "normalizer": lambda content: content.update(normalizer={"type": "NFC"}),
    "prefix": lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    "pattern": lambda content: content["pre_tokenizer"].update(use_regex=False),
    "fewer": lambda content: content["added_tokens"].pop(),
}


@pytest.mark.parametrize("how", OTHER)
def test_other_ids_are_another_tokenizer(how: str, tmp_path: Path) -> None:
    made = byte_level()
    content = json.loads(made.to_str())
    OTHER[how](content)
    one, _ = identity(made.to_str(), folder=tmp_path / "one")
    other, _ = identity(json.dumps(content), folder=tmp_path / "other")
    assert one != other


def test_all_kinds_are_others_and_stay_themselves(tmp_path: Path) -> None:
    lower = byte_level()
    lower.normalizer = normalizers.Lowercase()
    kinds = [byte_level(), begins(byte_level()), lower, byte_fallback(), unigram(unknown=True)]
    kinds += [words(models.WordPiece), words(models.WordLevel)]
    kinds += [byte_level(pre_tokenizers.Digits(individual_digits=True))]
    found = [identity(made.to_str(), folder=tmp_path / "f")[0] for made in kinds]
    again = [
        identity(Tokenizer.from_str(made.to_str()).to_str(pretty=True), folder=tmp_path / "f")[0]
        for made in kinds
    ]
    assert found == again
    assert len(set(found)) == len(kinds)


def test_lines_of_a_tiktoken_file_may_stand_in_any_order(tmp_path: Path) -> None:
    lines = [base64.b64encode(bytes([n])) + b" %d" % n for n in range(256)]
    path, settings = tmp_path / "a.tiktoken", '{"pattern": ".", "special_tokens": {"<e>": 256}}'
    found = {}
    for name, content in {
        "plain": b"\n".join(lines) + b"\n",
        "reversed": b"\n".join(reversed(lines)) + b"\n",
        "windows": b"\r\n".join(lines) + b"\r\n",
        "other": b"\n".join(lines[:255]) + b"\n",
    }.items():
        path.write_bytes(content)
        found[name] = load_tokenizer(path, settings=settings).identity
    assert found["plain"] == found["reversed"] == found["windows"] != found["other"]
