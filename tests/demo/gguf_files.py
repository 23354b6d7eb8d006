# SPDX-License-Identifier: Apache-2.0
"""Small GGUF files whose ids show where a text was cut."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
SIGNS = ["Ġ", "Ċ", "1", "2", "a", "B", "'", "s", "S", "!", "."]
PAIRS = [(first, second) for first, second in product(SIGNS, SIGNS)]
TRIPLES = [(first + second, third) for first, second, third in product("12", "12", "12")]
MERGES = [f"{first} {second}" for first, second in PAIRS + TRIPLES]
WHOLE = "Bsa"
"""A token that no merges make."""
ADDED = {"<x>": CONTROL, "<y>": UNUSED, "<u>": USER_DEFINED, "<z>": CONTROL}
TOKENS = [*sorted(ByteLevel.alphabet()), *(m.replace(" ", "") for m in MERGES), WHOLE, *ADDED]
KINDS = [ADDED.get(token, NORMAL) for token in TOKENS]


def write_gguf(path: Path, *, pre: str | None, model: str = "gpt2", **stated: Any) -> Path:
    """A file of a tokenizer alone; ``stated`` are further keys, or others than usual."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    usual = {"tokens": TOKENS, "token_type": KINDS, "merges": MERGES}
    ids = {"bos_token_id": TOKENS.index("<x>"), "eos_token_id": TOKENS.index("<u>")}
    for key, value in {**usual, **ids, **stated}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
        if value is not None:
            add[type(value)](f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
