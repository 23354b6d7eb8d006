# SPDX-License-Identifier: Apache-2.0
"""Folders of every kind give AutoTokenizer's ids, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from megacpt.errors import ModelError
from megacpt.tokenizer import load_tokenizer
from tools.bench import tokenizer_folders
from tools.bench.tokenizer_folders import Made, byte_level, config, declared

FOLDERS = {name: made for name, made in tokenizer_folders.folders() if "class" not in name}
"""Classes of transformers are asked for in test_auto_tokenizer.py."""
REFUSED = {
    "ids contradict": "gives '<tool>' the id 378, but with tokenizer.json it has 369; the files",
    "eos of another": "eos_token='</s>' is not in the vocabulary of tokenizer.json",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_auto_tokenizer_s(name: str, tmp_path: Path) -> None:
    made = FOLDERS[name]
    folder = made.write(tmp_path / "folder")
    oracle = made.write(tmp_path / "oracle", for_oracle=True)
    found = tokenizer_folders.compare(
        name, folder=folder, oracle=oracle, found=tokenizer_folders.texts(150)
    )
    assert REFUSED.get(name, "") in found.refused
    assert bool(found.refused) == (name in REFUSED)
    assert (found.different, found.first) == (0, "")


def test_files_alone_give_their_library_s_ids(tmp_path: Path) -> None:
    results = list(tokenizer_folders.compare_files(tmp_path, count=150))
    assert [result.different for result in results] == [0, 0]


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        (config(**declared(byte_level(), "<tool>", "</tool>")), 2),
        (config(extra_special_tokens=["<tool>"]), 1),
        (config() | {"added_tokens.json": {"<tool>": 369}}, 1),
        (config(pad_token="<pad>", unk_token="<unk>"), 0),
        (config(pad_token="<pad>", extra_special_tokens=["<tool>"]), 2),
    ],
)
def test_a_token_that_is_only_named_needs_no_row(
    files: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    plain = byte_level()
    folder = Made(tokenizer=plain, files=files).write(tmp_path / "f")
    tokenizer, auto = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == plain.get_vocab_size() + rows
    assert tokenizer.backend.vocab_size == len(auto)
    assert tokenizer.pad_id == auto.pad_token_id
    assert tokenizer.eos_id == auto.eos_token_id


@pytest.mark.parametrize(("complete", "eos"), [(False, "<s>"), (True, "<e>")])
def test_who_names_the_end_of_text(complete: bool, eos: str, tmp_path: Path) -> None:
    """special_tokens_map.json counts where the configuration does not declare its tokens."""
    plain = byte_level()
    files = config(**(declared(plain) if complete else {}))
    files |= {"special_tokens_map.json": {"eos_token": "<s>"}}
    folder = Made(tokenizer=plain, files=files).write(tmp_path / "f")
    auto = AutoTokenizer.from_pretrained(folder)
    assert load_tokenizer(folder).eos_id == auto.eos_token_id == plain.token_to_id(eos)


@pytest.mark.parametrize("token", [{"content": "<t>", "lstrip": "no"}, {"special": True}, 7])
def test_a_token_that_cannot_be_read_is_named(token: object, tmp_path: Path) -> None:
    files = config(added_tokens_decoder={"369": token})
    folder = Made(tokenizer=byte_level(), files=files).write(tmp_path / "f")
    with pytest.raises(ModelError, match=r"declares the token .* which cannot be read"):
        load_tokenizer(folder)


def test_another_tokenizer_file_is_refused(tmp_path: Path) -> None:
    files = config(fast_tokenizer_files=["tokenizer.json", "tokenizer.4.0.json"])
    folder = Made(tokenizer=byte_level(), files=files).write(tmp_path / "f")
    with pytest.raises(ModelError, match=r"names tokenizer\.4\.0\.json, which transformers may"):
        load_tokenizer(folder)


def test_added_tokens_are_part_of_the_fingerprint_and_named_ones_known(tmp_path: Path) -> None:
    plain = byte_level()
    one = load_tokenizer(Made(tokenizer=plain).write(tmp_path / "one"))
    files = config(**declared(plain, "<tool>"))
    other = load_tokenizer(Made(tokenizer=plain, files=files).write(tmp_path / "other"))
    assert one.file_fingerprint == one.fingerprint == other.file_fingerprint
    assert other.fingerprint != one.fingerprint
    assert other.identity != one.identity
    # What was made before tokens of other files counted has the file's fingerprint, no identity.
    assert other.wrote(one.fingerprint, identity="")
    assert not other.wrote(one.fingerprint + "0", identity=one.identity)
    content = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(content, indent=1))
    again = load_tokenizer(tmp_path / "other")
    assert again.fingerprint != other.fingerprint
    assert again.wrote(other.fingerprint, identity=other.identity)
