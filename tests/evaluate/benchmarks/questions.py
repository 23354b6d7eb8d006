# SPDX-License-Identifier: Apache-2.0
"""Texts to score, and how transformers scores them one by one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from megacpt.evaluate.benchmarks.text import Score, Text, continued
from tests.llama_cases import VOCAB_SIZE

MAX_LENGTH = 80


def texts(*, questions: int = 6, seed: int = 3) -> list[Text]:
    """Questions behind one of two introductions, options of one to seven tokens or none; one text
    that is longer than a model's positions, one of a single token, and one asked twice."""
    draw = random.Random(seed)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(VOCAB_SIZE) for _ in range(length)]

    intros, made = [tokens(25), tokens(31)], []
    for number in range(questions):
        question = intros[number % 2] + tokens(draw.randrange(1, 20))
        for length in (1, 1, 1, draw.randrange(2, 8)):
            made.append(continued(question, continuation=tokens(length), max_length=MAX_LENGTH))
    made.append(continued(tokens(100), continuation=tokens(30), max_length=MAX_LENGTH))
    made.append(continued(tokens(1), continuation=tokens(1), max_length=MAX_LENGTH))
    made.append(continued(tokens(9), continuation=[], max_length=MAX_LENGTH))
    made.append(made[3])
    draw.shuffle(made)
    return made


def scored_by_transformers(texts: list[Text], *, folder: Path) -> list[Score]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [_score(text, model=model) for text in texts]


@torch.no_grad()
def _score(text: Text, *, model: Any) -> Score:
    logits_SV = model(torch.tensor([text.inputs])).logits[0, text.first_scored :].double()
    labels_S = torch.tensor(text.labels, dtype=torch.int64)
    chosen_S = logits_SV.log_softmax(-1).gather(1, labels_S.unsqueeze(1))
    greedy = logits_SV.argmax(-1).tolist() == list(text.labels)
    return Score(log_likelihood=float(chosen_S.sum()), is_greedy=greedy)
