# SPDX-License-Identifier: Apache-2.0
"""Weights, gradients and optimizer state cut over the data-parallel ranks (ZeRO-3).

PyTorch's FSDP2 (``torch.distributed.fsdp.fully_shard``) does the cutting: each layer's weights are
gathered when it runs and given up after it. megatron-core wraps FSDP2 too, but its wrapper averages
the gradient over ranks, drops the division by the number of tokens, and reduces a bf16 model's
gradients in bf16. Here the shards are the fp32 master weights themselves: the gathered copies are
in the run's dtype, gradients are summed in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.distributed.data_parallel_base import _BaseDataParallel
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from megacpt.model.blocks import Blocks, blocks_of


class ShardedWeights(_BaseDataParallel):  # type: ignore[misc]
    """In place of megatron-core's DistributedDataParallel, for its schedules and optimizers."""

    def __init__(self, model: Any, *, device: torch.device) -> None:
        """``model``: whole, on any device; its shards end on ``device``."""
        super().__init__(config=model.config, module=model)
        self.ddp_config = DistributedDataParallelConfig()
        self.blocks: Blocks = blocks_of(model)
        compute_dtype = model.config.params_dtype
        attributes = {name: dict(vars(p)) for name, p in model.named_parameters()}
        model.float()
        _shard(model, compute_dtype=compute_dtype, device=device)
        for name, param in model.named_parameters():
            # FSDP2 puts new parameters in place of those that megatron-core has marked.
            vars(param).update(attributes[name])

    def scale_gradients(self, scaling_factor: float) -> None:
        """Called with 1 / tokens of the global batch."""
        for param in self.module.parameters():
            if param.grad is not None:
                param.grad.mul_(scaling_factor)

    def finish_grad_sync(self, *_: Any, **__: Any) -> None:
        """Each microbatch's backward pass has reduced its gradients already."""


def _shard(model: Any, *, compute_dtype: torch.dtype, device: torch.device) -> None:
    """Layer by layer; embedding, last norm and head belong together, where a tied table is one."""
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    policy = MixedPrecisionPolicy(
        param_dtype=compute_dtype,
        reduce_dtype=torch.float32,
        # Rotary positions stay in fp32, as without sharding.
        cast_forward_inputs=False,
    )
    mesh = DeviceMesh.from_group(group, device.type)
    for module in (*_layers(model), model):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        assert isinstance(module, FSDPModule)
        # Sums until they are divided by the number of tokens; gloo cannot average anyway.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _layers(model: Any) -> Iterator[Any]:
    return (m for m in model.modules() if isinstance(m, TransformerLayer))
