# SPDX-License-Identifier: Apache-2.0
"""Small real things that many tests need: a Llama folder, a free port."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 257,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.05,
    "hidden_act": "silu",
    "bos_token_id": 256,
    "eos_token_id": 256,
    "torch_dtype": "float32",
}


def write_model_folder(folder: Path, **changes: Any) -> Path:
    """config.json and the packaged byte tokenizer (256 bytes and one end-of-text token)."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    tiny = Path(__file__).parents[1] / "configs" / "model" / "tiny"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((tiny / name).read_text())
    return folder


def free_port(*, span: int = 1) -> int:
    """The first of ``span`` TCP ports that nobody listened on a moment ago.

    Below those the system gives to clients, as ranks of another test are: it could take one before
    it is used here.
    """
    while True:
        first = random.SystemRandom().randrange(10_000, 32_000)
        if all(_is_free(port) for port in range(first, first + span)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
