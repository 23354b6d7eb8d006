# SPDX-License-Identifier: Apache-2.0
"""Run model_layout_worker.py in several layouts and put together what its ranks found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.llama_cases import TOKENS_BS, VOCAB_SIZE
from tests.support import free_port

WORKER = Path(__file__).with_name("layouts_worker.py")
LOGITS_ATOL = 2e-5


def reference(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    with torch.no_grad():
        logits_BSV = model(TOKENS_BS).logits
    losses = torch.nn.functional.cross_entropy(
        logits_BSV.flatten(0, 1), TOKENS_BS.flatten(), reduction="none"
    )
    return logits_BSV, losses.view_as(TOKENS_BS)


def run_world(work: Path, world_size: int, layouts: dict[str, dict[str, Any]]) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(world_size):
        environment = os.environ | address | {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        environment |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size)}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(WORKER), str(work), json.dumps(layouts)]
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait(timeout=300) for process in processes] == [0] * world_size


def assembled(work: Path, layout: str, case: str) -> dict[str, torch.Tensor]:
    """The whole Hugging Face tensors, put together from what the ranks hold."""
    parts: dict[str, dict[int, Any]] = {}
    for path in sorted(work.glob(f"slices-{layout}-{case}-?.pt")):
        for name, (tp_dim, index, tensor) in torch.load(path).items():
            parts.setdefault(name, {})[index] = (tp_dim, tensor)
    whole: dict[str, torch.Tensor] = {}
    for name, slices in parts.items():
        dim, first = slices[0]
        ordered = [slices[n][1] for n in sorted(slices)]
        tensor = first if dim is None else torch.cat(ordered, dim=dim)
        whole[name] = tensor[:VOCAB_SIZE] if "embed" in name or "lm_head" in name else tensor
    return whole
