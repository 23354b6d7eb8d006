# SPDX-License-Identifier: Apache-2.0
"""A low-rank update beside a layer that keeps its product to itself, as Transformer Engine's do.

Such a layer gathers its input, or sums its output, in one step with the product, in kernels of its
own. The update begins with the layer's own input and is added to its own output; what passes
between the tensor-parallel ranks is what lies between both factors, R numbers a token:

    column    h_TR = x a_RI^T, gathered along T with sequence parallelism;  y_TO + h b_OR^T
    row       h_TR = x a_RI^T of a rank's inputs, the ranks' summed;        y_TO + h b_OR^T

So with sequence parallelism each rank sees a part of the tokens with a factor that is whole on all
of them, and without it all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.dist_checkpointing.utils import replace_prefix_for_sharding
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch.nn.functional import dropout, linear

from megacpt.families.adapter import ADAPTER, Linear
from megacpt.families.architecture import Architecture
from megacpt.model.adapters.linear import Adapted, Factors


class BesideLinear(Adapted):
    """What is laid over a layer whose ranks communicate in its own product."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    sequence_parallel: bool

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        y, bias_apart = super().forward(x, *args, **kwargs)
        factors, by_tokens = self.adapter, self.sequence_parallel
        a_RI, b_OR, magnitude_O = factors.shared() if by_tokens else factors()
        low = linear(dropout(x, factors.adapter.dropout, self.training), a_RI)
        low = _passed_on(low, factors=factors, by_tokens=by_tokens)
        gain_O = factors.gain(self.weight, a_RI=a_RI, b_OR=b_OR, magnitude_O=magnitude_O)
        bias_O = self.bias if bias_apart is None else None
        return _updated(y, low=low, b_OR=b_OR, gain_O=gain_O, bias_O=bias_O), bias_apart


class BesideExperts(torch.nn.Module):
    """What is laid over a layer of all of a rank's experts, whose tokens lie one expert's after
    another's; megatron-core's dispatcher passes them between ranks, before and after."""

    adapter: Any
    """Of each expert its factors."""
    num_gemms: int
    use_bias: bool
    config: Any
    _tp_group: Any
    _pg_collection: Any

    def add_factors(self, linear: Linear, *, architecture: Architecture) -> None:
        """Their values are undefined."""
        dtype, group = self.config.params_dtype, self._tp_group
        self.adapter = torch.nn.ModuleList(
            Factors(linear, architecture=architecture, dtype=dtype, group=group)
            for _ in range(self.num_gemms)
        )

    def forward(self, x: torch.Tensor, counts: list[int], *args: Any, **kwargs: Any) -> Any:
        y, biases_apart = super().forward(x, counts, *args, **kwargs)
        within = self.use_bias and biases_apart is None
        parts = zip(torch.split(x, counts), torch.split(y, counts), strict=True)
        updated = [
            self._of_expert(number, x=part, y=product, bias_within=within)
            for number, (part, product) in enumerate(parts)
        ]
        return torch.cat(updated), biases_apart

    def _of_expert(
        self, number: int, *, x: torch.Tensor, y: torch.Tensor, bias_within: bool
    ) -> torch.Tensor:
        factors = self.adapter[number]
        a_RI, b_OR, magnitude_O = factors.shared()
        low = linear(dropout(x, factors.adapter.dropout, self.training), a_RI)
        weight = getattr(self, f"weight{number}")
        gain_O = factors.gain(weight, a_RI=a_RI, b_OR=b_OR, magnitude_O=magnitude_O)
        bias_O = getattr(self, f"bias{number}") if bias_within else None
        return _updated(y, low=low, b_OR=b_OR, gain_O=gain_O, bias_O=bias_O)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """As layers of one expert each have it: experts are numbered along a dimension."""
        found: dict[str, Any] = super().sharded_state_dict(  # type: ignore[misc]
            prefix, sharded_offsets, metadata
        )
        ranks, of_all = self._pg_collection, f"{prefix}{ADAPTER}."
        for number, factors in enumerate(self.adapter):
            expert = ranks.ep.rank() * self.num_gemms + number
            place = len(sharded_offsets), expert, ranks.ep.size() * self.num_gemms
            own = f"{of_all}{number}."
            entries = factors.sharded_state_dict(own, (*sharded_offsets, place), metadata)
            replace_prefix_for_sharding(entries, own, of_all)
            for entry in entries.values():
                entry.replica_id = (*entry.replica_id[:2], ranks.expt_dp.rank())
            found |= entries
        return found


def _passed_on(low: torch.Tensor, *, factors: Factors, by_tokens: bool) -> torch.Tensor:
    """The product with the inner factor, of the tokens that the outer one is multiplied with."""
    if factors.of_row:
        passes = (
            reduce_scatter_to_sequence_parallel_region
            if by_tokens
            else reduce_from_tensor_model_parallel_region
        )
    else:
        passes = (
            gather_from_sequence_parallel_region
            if by_tokens
            else copy_to_tensor_model_parallel_region
        )
    passed: torch.Tensor = passes(low, group=factors.group)
    return passed


def _updated(
    y: torch.Tensor,
    *,
    low: torch.Tensor,
    b_OR: torch.Tensor,
    gain_O: torch.Tensor | None,
    bias_O: torch.Tensor | None,
) -> torch.Tensor:
    """``y`` with the update; ``bias_O``, which it holds, is no part of what a gain multiplies."""
    y = torch.addmm(y.flatten(0, -2), low.flatten(0, -2), b_OR.t()).view(y.shape)
    if gain_O is None:
        return y
    if bias_O is None or bias_O.numel() == 0:
        return y * gain_O
    return (y - bias_O) * gain_O + bias_O
