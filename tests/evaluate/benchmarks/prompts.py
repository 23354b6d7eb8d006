# SPDX-License-Identifier: Apache-2.0
"""Prompts to continue, and how transformers continues them one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megacpt.evaluate.benchmarks.text import Writing
from tests.llama_cases import VOCAB_SIZE

WRITING = Writing(max_new_tokens=20, stops=("<36>",), end_ids=(3, 5, 7, 11, 13))

DRAWN = Writing(max_new_tokens=12, temperature=0.8, seed=4)


def decode(ids: Sequence[int]) -> str:
    return "".join(f"<{n}>" for n in ids)


def prompts(*, seed: int = 5) -> list[list[int]]:
    """Some behind one introduction, one of a single token, two the same."""
    draw = random.Random(seed)
    intro = [draw.randrange(VOCAB_SIZE) for _ in range(20)]
    lengths = [1, 4, 9, 17, 30, 2, 12]
    made = [[draw.randrange(VOCAB_SIZE) for _ in range(length)] for length in lengths]
    made += [intro + text for text in made[:3]]
    return [*made, made[4]]


def continued_by_transformers(prompts: list[list[int]], *, folder: Path) -> list[list[int]]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=WRITING.max_new_tokens,
            eos_token_id=[*WRITING.end_ids, 36],
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        found.append(out[:-1] if out[-1] in WRITING.end_ids else out)
    return found
