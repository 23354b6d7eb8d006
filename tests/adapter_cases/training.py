# SPDX-License-Identifier: Apache-2.0
"""The loop that twins share: the loss of a global batch, its gradient, AdamW.

Shapes: B samples of the global batch, S tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalBatch:
    """A step's tokens. Labels are shifted already, as megacpt's own: ``labels_BS[b, s]`` is the
    token after ``tokens_BS[b, s]``."""

    tokens_BS: torch.Tensor
    labels_BS: torch.Tensor
    loss_mask_BS: torch.Tensor

    @classmethod
    def of(cls, microbatches: Sequence[Any]) -> GlobalBatch:
        """Of all microbatches of a step (``megacpt.model.microbatch.Microbatch``)."""
        names = ("tokens_BS", "labels_BS", "loss_mask_BS")
        return cls(**{n: torch.cat([getattr(m, n) for m in microbatches]) for n in names})


def drawn_batches(
    count: int, *, vocab_size: int, samples: int = 4, length: int = 32, seed: int = 5
) -> list[GlobalBatch]:
    """Skewed, so that there is something to learn; a fifth of the tokens are masked."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        shares = torch.rand(samples, length + 1, generator=generator)
        ids = (vocab_size * shares**3).long()
        mask = torch.rand(samples, length, generator=generator) < 0.8
        batches.append(
            GlobalBatch(tokens_BS=ids[:, :-1], labels_BS=ids[:, 1:], loss_mask_BS=mask.float())
        )
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipliers:
    """Of one group of parameters, as megatron-core's ``lr_mult`` and ``wd_mult``."""

    lr: float = 1.0
    decay: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """What ``megacpt.train.optimizer`` does."""

    lr_by_step: Sequence[float]
    """Of each step in turn, so their number is that of the steps."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_grad_norm: float = 1.0
    """Global, over everything trained; 0: no clipping."""
    multipliers: Mapping[str, Multipliers] = field(default_factory=dict)
    """Part of a key -> what differs for it; no key may have two."""
    b_lr_multiplier: float = 1.0
    """LoRA+; of B's rate, and in peft's own way (``peft_twin.loraplus_multipliers``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """By key: as the twin says its tensors are called."""

    losses: list[float]
    """Of each step before its update: summed over the valid tokens, over their number."""
    gradient_norms: list[float]
    """Before clipping."""
    gradients: dict[str, torch.Tensor]
    """Of the first step, before clipping."""
    start: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]
    """After the last step."""
    model: Any

    @torch.no_grad()
    def logits_BSV(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(tokens_BS, use_cache=False).logits
        return logits


def load_base(folder: Path, *, attention: str = "sdpa") -> Any:
    """transformers' model, fp32, in the mode of training."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )
    return model.train()


def mean_loss(model: Any, *, batch: GlobalBatch) -> torch.Tensor:
    """Over the valid tokens of the whole global batch, as ``megacpt.model.forward`` has it."""
    logits_BSV = model(batch.tokens_BS, use_cache=False).logits
    losses_T = torch.nn.functional.cross_entropy(
        logits_BSV.flatten(0, 1), batch.labels_BS.flatten(), reduction="none"
    )
    mask_T = batch.loss_mask_BS.flatten()
    return (losses_T * mask_T).sum() / mask_T.sum()


def train(
    model: Any,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    batches: Sequence[GlobalBatch],
    optim: AdamW,
    named: Callable[[], dict[str, torch.Tensor]] | None = None,
    multipliers: Callable[[str], Multipliers] | None = None,
) -> Trained:
    """``named``: what to return of the model, where it is not the parameters alone."""
    named = named or (lambda: {key: p.detach() for key, p in parameters.items()})
    multipliers = multipliers or (lambda key: multipliers_of(key, optim=optim))
    start = copied(named())
    optimizer = _optimizer(parameters, optim=optim, multipliers=multipliers)
    losses, norms, gradients = [], [], {}
    for batch, lr in zip(batches, optim.lr_by_step, strict=True):
        optimizer.zero_grad()
        loss = mean_loss(model, batch=batch)
        loss.backward()
        gradients = gradients or {key: p.grad.clone() for key, p in parameters.items()}
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
        limit = optim.clip_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), limit)
        optimizer.step()
        losses.append(float(loss.detach()))
        norms.append(float(norm))
    return Trained(
        losses=losses,
        gradient_norms=norms,
        gradients=gradients,
        start=start,
        tensors=copied(named()),
        model=model,
    )


def copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


def multipliers_of(key: str, *, optim: AdamW) -> Multipliers:
    found = [value for part, value in optim.multipliers.items() if part in key]
    assert len(found) < 2, f"{key}: several multipliers"
    return found[0] if found else Multipliers()


def _optimizer(
    parameters: Mapping[str, torch.nn.Parameter],
    *,
    optim: AdamW,
    multipliers: Callable[[str], Multipliers],
) -> torch.optim.AdamW:
    groups = []
    for key, parameter in parameters.items():
        of_key = multipliers(key)
        decay = optim.weight_decay * of_key.decay
        groups.append({"params": [parameter], "lr_mult": of_key.lr, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=(optim.beta1, optim.beta2), eps=optim.eps)
