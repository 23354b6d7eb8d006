# SPDX-License-Identifier: Apache-2.0
"""A small model, shards of conversations and of text, and runs that learn of both."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from megacpt.shards.chat import tokenize_chat
from megacpt.shards.chat.template import choose_template
from megacpt.shards.packing import build_packing
from megacpt.shards.reader import IndexedShard
from megacpt.shards.tokenize import tokenize
from megacpt.tokenizer import load_tokenizer
from tests.llama_cases import CASES, write_llama

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"
S = 128
"""Inputs of a row: one to four conversations."""
WORDS = ("tea", "milk", "river", "stone", "seven", "nine", "blue", "green")
SFT: dict[str, Any] = {
    "objective": "sft",
    "model": {"init": "pretrained", "allow_unhealthy": True},
    "data": {
        "packing": "best_fit",
        "document_mask": True,
        "sequence_length": S,
        "micro_batch_size": 4,
    },
    "optim": {"lr_peak": 3e-3},
    "schedule": {"shape": "constant", "warmup_steps": 0},
}


def conversations(count: int, *, seed: int = 0) -> list[list[dict[str, str]]]:
    """One or two turns each: the reply repeats what was asked."""
    draw = random.Random(seed)

    def turn() -> list[dict[str, str]]:
        said = " ".join(draw.choices(WORDS, k=draw.randint(1, 3)))
        return [{"role": "user", "content": said}, {"role": "assistant", "content": f"{said}."}]

    return [[m for _ in range(draw.randint(1, 2)) for m in turn()] for _ in range(count)]


def write_inputs(work: Path, *, count: int = 120) -> None:
    """model, domain (conversations) and replay (text), packed."""
    write_llama(work / "model", **CASES["tied-gqa"], vocab_size=257, bos_token_id=256)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (work / "model" / name).write_text((TINY / name).read_text())
    tokenizer = load_tokenizer(work / "model")
    chats = [{"messages": messages} for messages in conversations(count)]
    (work / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    tokenize_chat(
        [work / "chats.jsonl"],
        tokenizer=tokenizer,
        output_prefix=work / "domain",
        template=choose_template("plain", tokenizer=tokenizer),
    )
    texts = [" ".join(m["content"] for m in chat) for chat in conversations(60, seed=1)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (work / "texts.jsonl").write_text(lines)
    tokenize([work / "texts.jsonl"], tokenizer=tokenizer, output_prefix=work / "replay", workers=1)
    for name in ("domain", "replay"):
        build_packing(IndexedShard(work / name), sequence_length=S)
