# SPDX-License-Identifier: Apache-2.0
"""What ranks have found in several layouts, put together, and what transformers finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.llama_cases import TOKENS_BS, VOCAB_SIZE
from tests.run_on_ranks import run_on_ranks

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
    target = "tests.model.layout_outputs:write_outputs"
    run_on_ranks(target, work, world=world_size, cases=layouts, timeout_s=300.0)


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


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names, types and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
