# SPDX-License-Identifier: Apache-2.0
"""What megatron-core is told of a mixture of experts: its settings, modules and gradient marks.

No token is ever dropped: every expert takes all that were sent to it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from megatron.core.tensor_parallel import RowParallelLinear
from megatron.core.transformer.moe import moe_utils

from megacpt.config.sections import DeviceKind, ParallelConfig
from megacpt.families.architecture import Architecture, Experts
from megacpt.model.layers.router import Router
from megacpt.plan.rules.experts import expert_tensor_ranks


def expert_settings(
    architecture: Architecture, *, parallel: ParallelConfig, kind: DeviceKind
) -> dict[str, Any]:
    """Keyword arguments of megatron-core's TransformerConfig; none for a dense model."""
    experts = architecture.experts
    if experts is None:
        return {}
    on_gpu = kind is DeviceKind.gpu
    etp = expert_tensor_ranks(parallel)
    # Where experts are cut, "alltoall" gathers unequal numbers of tokens, which gloo cannot.
    dispatcher = "alltoall" if on_gpu or etp == 1 else "allgather"
    return {
        "num_moe_experts": experts.num,
        "moe_router_topk": experts.per_token,
        "moe_ffn_hidden_size": architecture.ffn_hidden_size,
        "moe_layer_freq": _layers_with_experts(architecture),
        "moe_shared_expert_intermediate_size": experts.shared_ffn_hidden_size,
        "moe_shared_expert_gate": experts.shared_gate,
        "expert_model_parallel_size": parallel.ep,
        "expert_tensor_parallel_size": etp,
        "moe_token_dispatcher_type": dispatcher,
        # Two logits that bf16 cannot tell apart would be ordered by chance.
        "moe_router_dtype": "fp32",
        # megacpt.model.layers.router chooses, and takes the balancing loss, whose weight it reads
        # here.
        "moe_router_load_balancing_type": "none",
        # It refuses one expert a token without, which its own router would give the weight 1.
        "moe_router_pre_softmax": experts.per_token == 1,
        "moe_aux_loss_coeff": experts.balance_coefficient,
        "moe_grouped_gemm": on_gpu,
        "moe_permute_fusion": on_gpu and getattr(moe_utils, "fused_permute", None) is not None,
    }


def _layers_with_experts(architecture: Architecture) -> int | list[int]:
    """1 for all; of some, one number a layer, 0 where it has none."""
    layers = [int(architecture.has_experts(layer)) for layer in range(architecture.num_layers)]
    return 1 if all(layers) else layers


def with_router(layer: Any, *, experts: Experts) -> Any:
    """The specification of a layer with experts, megacpt's router in it."""
    submodules = mlp_submodules(layer)
    submodules.router = partial(Router, experts=experts)
    if experts.on_input:
        submodules.experts = _weighing_input(submodules.experts)
    return layer


def _weighing_input(experts: Any) -> Any:
    """The same experts, which ModuleSpec or partial call describe, of a class that does so."""
    if isinstance(experts, partial):
        return partial(_on_input(experts.func), *experts.args, **experts.keywords)
    return replace(experts, module=_on_input(experts.module))


def _on_input(experts: Any) -> Any:
    return type(experts.__name__, (OnInput, experts), {})


class OnInput(torch.nn.Module):
    """megatron-core's experts, which take each token times its weight and whose results are summed;
    its own setting for that knows one expert a token alone."""

    def forward(self, x: torch.Tensor, counts: Any, weights: torch.Tensor, **kwargs: Any) -> Any:
        weighed = (x * weights.unsqueeze(-1)).to(x.dtype)
        return super().forward(weighed, counts, torch.ones_like(weights), **kwargs)


def mlp_submodules(layer: Any) -> Any:
    """megatron-core 0.16 describes a module by a ModuleSpec, 0.19 by a partial call."""
    mlp = layer.submodules.mlp
    return mlp.keywords["submodules"] if isinstance(mlp, partial) else mlp.submodules


def mark_expert(weight: torch.nn.Parameter) -> None:
    """Have its gradient reduced over the ranks that hold the same expert, and those alone.

    megatron-core 0.16 says so only where experts are dealt to ranks, although a cut of the experts
    that differs from the one of attention changes these ranks too. Said always, every layout has
    the same two optimizers, and finds both in a checkpoint.

    A bias would be taken for one that all tensor-parallel ranks have: with sequence parallelism the
    gradients of different experts would be summed, and in the norm only the first rank's count.
    """
    weight.allreduce = False  # type: ignore[attr-defined]
    weight.sequence_parallel = False  # type: ignore[attr-defined]
    weight.tensor_model_parallel = True  # type: ignore[attr-defined]


def add_biases_apart(model: Any) -> None:
    """Have experts give their result itself: megatron-core adds the bias to it in place, and torch
    refuses that of a view, as what a sum over ranks returns is even if there is one rank."""
    for module in model.modules():
        if isinstance(module, RowParallelLinear) and module.is_expert:
            module.explicit_expert_comm = True
