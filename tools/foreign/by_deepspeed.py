# SPDX-License-Identifier: Apache-2.0
"""Train a Hugging Face folder for two steps with DeepSpeed on CPUs and save it, as one of several
ranks: ``torchrun ... tools/foreign/by_deepspeed.py HF_FOLDER OUTPUT STAGE``; started by check.py.

The first rank then lets DeepSpeed put the weights together, for comparison.
"""

from __future__ import annotations

import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

STEPS, TOKENS = 2, 32


def main(arguments: list[str]) -> None:
    source, output, stage = arguments
    deepspeed.init_distributed("gloo")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.dim() == 1], "weight_decay": 0.0},
    ]
    # Small subgroups, so that there are several.
    zero = {"stage": int(stage), "sub_group_size": 20000}
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=1e-3),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": zero,
            "bf16": {"enabled": True},
            "zero_allow_untested_optimizer": True,
        },
    )
    torch.manual_seed(engine.global_rank)
    for _ in range(STEPS):
        tokens = torch.randint(0, model.config.vocab_size, (1, TOKENS))
        engine.backward(engine(input_ids=tokens, labels=tokens).loss)
        engine.step()
    engine.save_checkpoint(output)
    if engine.global_rank == 0:
        weights = get_fp32_state_dict_from_zero_checkpoint(output)
        whole = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
        save_file(whole, str(Path(output) / "by_deepspeed.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1:])
