# SPDX-License-Identifier: Apache-2.0
"""How peft 0.21 keeps adapters of experts that transformers 5 stacks, as read and run.

transformers 5 has two parameters a mixture, ``experts.gate_up_proj`` (E, 2 f, H) and
``experts.down_proj`` (E, H, f). peft adapts parameters by ``target_parameters``, E experts of rank
R as one pair of matrices:

- ``lora_A.weight`` (E R, in): expert after expert, rows e R to (e + 1) R are expert e's A.
- ``lora_B.weight`` (out, R E): rank after rank, **not** expert after expert. Expert e's B are the
  columns e, e + E, e + 2 E, and so on.
- ``gate_up_proj`` is the inner wrapper, ``experts.base_layer.lora_A.weight``, and ``down_proj``
  the outer one, ``experts.lora_A.weight``: parameters are wrapped in their order in the module,
  whatever that of ``target_parameters`` is. One that is adapted alone is ``experts.lora_A.weight``.
- Gate and up have an A each, so together they are R = 2 r: gate's rows of A, then up's, and a B of
  two blocks, zero but on the diagonal. What a B of that shape learns stays such blocks only by
  being trained otherwise.
- The scale is alpha / R, or alpha / sqrt(R): ``rank_pattern`` 2 r asks for 2 alpha in
  ``alpha_pattern``, or sqrt(2) alpha with ``use_rslora``. Both patterns match the name of the
  parameter, ``mlp.experts.gate_up_proj``; peft warns that they match nothing, and uses them.
- No dropout, no DoRA, no bias.
- Weights of gpt-oss are (E, in, out), which transformers marks (``is_transposed``): A and B are as
  above, B's rows gate's and up's in turn, as the weights are. Those of Llama 4 are (E, in, out) and
  not marked: what peft calls A is over ``out`` there, and B over ``in``.

transformers 4 has a module for each: ``experts.0.gate_proj.lora_A.weight`` and its like of rank r,
with names of modules as targets. On transformers 5, peft makes the stacked ones of these as they
are loaded, and other targets of the configuration: any that ends in ``gate_proj``, ``up_proj`` or
``down_proj`` becomes the stacked parameter, so that dense layers and shared experts are adapted no
more, silently (``target_parameters`` of ``mlp.gate_proj.weight`` do it); with ``use_rslora`` gate
and up are scaled by sqrt(2) too much; and ``qwen2_moe`` itself is left out, its experts' tensors
dropped without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Of one matrix (out, in): its change is the scale times B A."""

    a: torch.Tensor
    """(rank, in)"""
    b: torch.Tensor
    """(out, rank)"""


def stacked_pair(experts: Sequence[Sequence[Pair]]) -> Pair:
    """Of the modules whose rows follow each other in the stacked matrix, gate and up, expert by
    expert."""
    a_ERI = torch.stack([torch.cat([pair.a for pair in pairs]) for pairs in experts])
    b_EOR = torch.stack([torch.block_diag(*(pair.b for pair in pairs)) for pairs in experts])
    return Pair(a=a_ERI.flatten(0, 1), b=b_EOR.permute(1, 2, 0).flatten(1))


def stacked_keys(tensors: Mapping[str, torch.Tensor], *, experts: int) -> dict[str, torch.Tensor]:
    """Of tensors named as on transformers 4, as peft saves them on transformers 5."""
    mark = ".experts.0.gate_proj.lora_A.weight"
    found = {key: tensor for key, tensor in tensors.items() if ".experts." not in key}
    for mixture in (key.removesuffix(mark) for key in tensors if key.endswith(mark)):

        def pair(name: str, *, mixture: str = mixture) -> Pair:
            a, b = (tensors[f"{mixture}.experts.{name}.lora_{f}.weight"] for f in "AB")
            return Pair(a=a, b=b)

        inner = [[pair(f"{e}.gate_proj"), pair(f"{e}.up_proj")] for e in range(experts)]
        outer = [[pair(f"{e}.down_proj")] for e in range(experts)]
        for place, pairs in {"experts.base_layer": inner, "experts": outer}.items():
            stacked = stacked_pair(pairs)
            found[f"{mixture}.{place}.lora_A.weight"] = stacked.a
            found[f"{mixture}.{place}.lora_B.weight"] = stacked.b
    return found
