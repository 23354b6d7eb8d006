# SPDX-License-Identifier: Apache-2.0
"""Raw pairs are refused where nobody asks for them, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from megacpt.curate.config import read_config
from megacpt.curate.pipeline import open_corpus
from megacpt.curate.rewrite.guard import require_no_raw_pairs
from megacpt.errors import ConfigError

MARKED = {"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>"}
PLAIN = {"text": "Words of a text."}
RECORD = {"text": "Hi\nHello", "raw_record": {"shape": "dialogue", "turns": []}}


def check(folder: Path, rows: Sequence[dict[str, Any]], *words: str) -> None:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (f"output={folder / 'out'}", f"sources.chats.files={path}", *words)
    corpus, _ = open_corpus(read_config(None, overrides=words), spool=folder / "spool")
    require_no_raw_pairs(corpus)


@pytest.mark.parametrize("row", [MARKED, RECORD])
def test_pairs_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"chats: raw pairs .* rewrite.raw_pairs=allow"):
        check(tmp_path, [row] * 6 + [PLAIN] * 5)


def test_records_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chats: raw pairs"):
        check(tmp_path, [{"what": "ever"}], "sources.chats.shape=auto")


@pytest.mark.parametrize("words", [("sources.chats.kind=heldout",), ()])
def test_all_else_is_not(tmp_path: Path, words: Sequence[str]) -> None:
    check(tmp_path, [MARKED] * (6 if words else 4) + [PLAIN] * 5, *words)
    check(tmp_path, [], *words)
    check(tmp_path, [{"no": "text"}] * 3 + [PLAIN], *words)
