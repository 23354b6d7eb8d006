# SPDX-License-Identifier: Apache-2.0
"""Continuations are those of transformers' own greedy search, with its repetition penalty."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megacpt.tokenizer import load_tokenizer
from tests.convert.test_export import import_model
from tests.support import write_model_folder

pytestmark = pytest.mark.mcore
PROMPTS = ["Enter the King", "ab", "The return statement leaves the function; it"]
NEW = 24


@pytest.mark.parametrize("seed", [2, 3])
def test_continuations_are_those_of_transformers(seed: int, tmp_path: Path, one_rank: None) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from megacpt.evaluate.generate import generate

    folder = write_model_folder(tmp_path / "base")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder)
    tokenizer, (chunks, _) = load_tokenizer(folder), import_model(folder)
    looped = 0
    for penalty in (1.0, 1.2, 2.0):
        made = generate(
            chunks,
            prompts=PROMPTS,
            tokenizer=tokenizer,
            max_new_tokens=NEW,
            sequence_length=128,
            device=torch.device("cpu"),
            repetition_penalty=penalty,
        )
        for prompt, found in zip(PROMPTS, made, strict=True):
            ids = torch.tensor([tokenizer.encode(prompt).tolist()])
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW,
                repetition_penalty=penalty,
                pad_token_id=0,
            )[0, ids.shape[1] :].tolist()
            end = out.index(tokenizer.eos_id) if tokenizer.eos_id in out else len(out)
            assert found == {"prompt": prompt, "text": tokenizer.decode(out[:end])}
            if penalty == 1.0:
                looped += len(set(out)) < len(out) / 2
            if penalty == 2.0:
                assert len(set(out)) > len(out) / 2
    assert looped
