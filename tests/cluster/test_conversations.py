# SPDX-License-Identifier: Apache-2.0
"""Conversations that a run cannot learn from are refused, and what is odd about them is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megacpt.cluster.conversations import chat_template_of, odd, refused
from megacpt.config.sections import (
    DataConfig,
    EvaluateConfig,
    HeldoutConfig,
    Objective,
    Packing,
    RunConfig,
    SourceConfig,
)
from megacpt.shards.chat import tokenize_chat
from megacpt.shards.chat.template import BUILTIN, choose_template
from megacpt.shards.packing import build_packing
from megacpt.shards.reader import IndexedShard, write_shard
from megacpt.tokenizer import load_tokenizer
from tests.shards.chat.templates import write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards: chat and more (chatml), other (plain) and text; packed for 30 and 60."""
    folder = tmp_path_factory.mktemp("chats")
    tokenizer = load_tokenizer(write_tokenizer(folder / "model"))
    lines = [json.dumps({"prompt": "the fox", "completion": "hello " * n}) for n in (1, 20)]
    (folder / "chat.jsonl").write_text("\n".join(lines))
    for name, template in (("chat", "chatml"), ("more", "chatml"), ("other", "plain")):
        tokenize_chat(
            [folder / "chat.jsonl"],
            tokenizer=tokenizer,
            output_prefix=folder / name,
            template=choose_template(template, tokenizer=tokenizer),
        )
    write_shard(folder / "text", documents=[range(99)], vocab_size=400)
    for name in ("chat", "more", "other", "text"):
        for length in (30, 200):
            build_packing(IndexedShard(folder / name), sequence_length=length)
    return folder


def config(
    folder: Path,
    *names: str,
    objective: Objective = Objective.sft,
    length: int = 200,
    document_mask: bool = True,
) -> RunConfig:
    data = DataConfig(
        sources={name: SourceConfig(prefix=str(folder / name)) for name in names},
        packing=Packing.best_fit,
        document_mask=document_mask,
        sequence_length=length,
    )
    return RunConfig(objective=objective, data=data)


def test_conversations_beside_text(folder: Path) -> None:
    run = config(folder, "chat", "text")
    assert [*refused(run), *odd(run)] == []
    assert chat_template_of(run) == (BUILTIN / "chatml.jinja").read_text()


def test_text_alone_has_no_replies(folder: Path) -> None:
    (found,) = refused(config(folder, "text"))
    assert "no source has a mask of it; write one with megacpt tokenize --chat" in str(found)
    assert list(refused(config(folder, "text", objective=Objective.pretraining))) == []
    assert chat_template_of(config(folder, "chat", objective=Objective.pretraining)) is None


def test_a_conversation_that_no_row_holds_is_refused(folder: Path) -> None:
    longest = int(IndexedShard(folder / "chat").lengths.max()) - 1
    (found,) = refused(config(folder, "chat", "text", length=30))
    assert found.path == "data.sequence_length"
    assert f"(the longest {longest})" in str(found)
    assert f"use {longest}, or tokenize them with --max-tokens 31" in str(found)


def test_two_templates_are_refused(folder: Path) -> None:
    assert list(refused(config(folder, "chat", "more"))) == []
    (found,) = refused(config(folder, "chat", "more", "other"))
    assert found.path == "data.sources.other.prefix"
    assert "another chat template than data.sources.chat" in str(found)


def test_what_is_seldom_meant_is_said(folder: Path) -> None:
    (whole,) = odd(config(folder, "chat", "text", objective=Objective.pretraining))
    assert whole.startswith("data.sources.chat holds conversations, and all of them is learned")
    (together,) = odd(config(folder, "chat", document_mask=False))
    assert "data.document_mask=true sets them apart" in together
    assert list(odd(config(folder, "text", document_mask=False))) == []


def test_a_held_out_set_that_asks_in_other_words_is_named(folder: Path) -> None:
    run = config(folder, "chat")
    names = ("more", "other", "text")
    sets = {name: HeldoutConfig(prefix=str(folder / name)) for name in names}
    (found,) = odd(replace(run, evaluate=EvaluateConfig(heldout=sets)))
    assert "evaluate.heldout.other was written with another chat template" in found
