# SPDX-License-Identifier: Apache-2.0
"""Stacked experts of transformers 5 as modules of their own, which transformers 4 had.

Then each of gate_proj, up_proj and down_proj of each expert is a linear layer that adapts as any
other does, by DoRA, PiSSA and LoRA-XS too.
"""

from __future__ import annotations

from typing import Any

import torch


def unstack(model: Any) -> None:
    """Put ``experts.0.gate_proj`` and its like in place of the stacked parameters."""
    stacked = [(name, m) for name, m in model.named_modules() if hasattr(m, "gate_up_proj")]
    assert stacked
    for name, experts in stacked:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Experts(experts))
    # By its type, peft would name other targets, and stack what it is given.
    model.config.model_type += "_of_modules"


class Experts(torch.nn.ModuleList):
    """Names as in transformers 4; called as in transformers 5."""

    def __init__(self, stacked: Any) -> None:
        pairs = zip(stacked.gate_up_proj, stacked.down_proj, strict=True)
        super().__init__(
            Expert(gate_up.detach(), down=down.detach(), act=stacked.act_fn)
            for gate_up, down in pairs
        )

    def forward(
        self, tokens_TH: torch.Tensor, chosen_TK: torch.Tensor, shares_TK: torch.Tensor
    ) -> torch.Tensor:
        """Each expert sees all tokens, so one that no token chose has a gradient of zeros."""
        outputs_TEH = torch.stack([expert(tokens_TH) for expert in self], dim=1)
        index_TKH = chosen_TK.unsqueeze(-1).expand(-1, -1, tokens_TH.shape[-1])
        chosen_TKH = outputs_TEH.gather(1, index_TKH)
        return (chosen_TKH * shares_TK.unsqueeze(-1)).sum(dim=1)


class Expert(torch.nn.Module):
    def __init__(self, gate_up: torch.Tensor, *, down: torch.Tensor, act: Any) -> None:
        super().__init__()
        gate, up = gate_up.chunk(2)
        self.gate_proj, self.up_proj, self.down_proj = map(linear_of, (gate, up, down))
        self.act = act

    def forward(self, tokens_TH: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.gate_proj(tokens_TH)) * self.up_proj(tokens_TH)
        down: torch.Tensor = self.down_proj(hidden)
        return down


def linear_of(weight: torch.Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data.copy_(weight)
    return linear
