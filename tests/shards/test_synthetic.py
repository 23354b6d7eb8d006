# SPDX-License-Identifier: Apache-2.0
"""Generated text is a function of its settings, and no two seeds share a document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megacpt.config.sections import SyntheticConfig
from megacpt.errors import ConfigError
from megacpt.shards.manifest import verify
from megacpt.shards.synthetic import documents, ensure_shard, write_jsonl
from megacpt.tokenizer import load_tokenizer

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"
CONFIG = SyntheticConfig(documents=30, seed=1, topic="plant")


def test_the_same_settings_give_the_same_text() -> None:
    assert list(documents(CONFIG)) == list(documents(CONFIG))
    assert list(documents(replace(CONFIG, documents=10))) == list(documents(CONFIG))[:10]


def test_seeds_and_topics_share_no_document() -> None:
    variants = [CONFIG, replace(CONFIG, seed=2), replace(CONFIG, topic="kitchen")]
    texts = [text for variant in variants for text in documents(variant)]
    assert len(set(texts)) == 90


def test_topics_share_the_grammar_but_not_the_words() -> None:
    plant, kitchen = (
        {w for text in documents(replace(CONFIG, topic=topic)) for w in text.split()[7:]}
        for topic in ("plant", "kitchen")
    )
    assert plant & kitchen <= {*("The", "the", "a", "on", "under", "over", "in", "at", "beside")}


def test_an_unknown_topic_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"synthetic.topic=sea is unknown; use plant or kitchen"):
        list(documents(replace(CONFIG, topic="sea")))


def test_the_file_holds_the_texts(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", config=CONFIG)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == list(documents(CONFIG))


def test_a_shard_is_written_once(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY)
    manifest = ensure_shard(tmp_path / "a", config=CONFIG, tokenizer=tokenizer)
    assert manifest == verify(tmp_path / "a")
    written_at = (tmp_path / "a.bin").stat().st_mtime_ns
    assert ensure_shard(tmp_path / "a", config=CONFIG, tokenizer=tokenizer) == manifest
    assert (tmp_path / "a.bin").stat().st_mtime_ns == written_at
    changed = ensure_shard(tmp_path / "a", config=replace(CONFIG, seed=2), tokenizer=tokenizer)
    assert changed != manifest
