# SPDX-License-Identifier: Apache-2.0
"""A model with experts, of Transformer Engine's layers and plain, in a process of its own.

Both get the same random weights. WORK_DIR/found.pt gets, for each: the names of a layer's
parameters, whether each expert's are marked as such, and what its checkpoint would hold (key ->
shape and checksum).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megacpt.config.sections import DeviceKind
from tests.model.te_documents import build, pretend_a_gpu


def describe(work: Path, _: Any) -> None:
    pretend_a_gpu()
    stay_on_the_host()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    kinds = {"engine": DeviceKind.gpu, "plain": DeviceKind.cpu}
    found = {name: facts(build(work / "model", kind)) for name, kind in kinds.items()}
    torch.save(found, work / "found.pt")


def stay_on_the_host() -> None:
    """The dispatcher makes an index of its experts on the GPU as it is built."""
    arange = torch.arange

    def on_the_host(*args: Any, device: object = None, **kwargs: Any) -> torch.Tensor:
        return arange(*args, **kwargs)

    torch.arange = on_the_host  # type: ignore[assignment]


def facts(model: Any) -> dict[str, Any]:
    layer = model.decoder.layers[0]
    named = dict(layer.mlp.named_parameters())
    return {
        "layer": type(layer.mlp.experts).__name__,
        "router": type(layer.mlp.router).__name__,
        "names": list(named),
        "experts": [n for n, p in named.items() if not getattr(p, "allreduce", True)],
        "dispatcher": model.config.moe_token_dispatcher_type,
        "permutes_in_one_kernel": model.config.moe_permute_fusion,
        "saved": saved(model),
    }


def saved(model: Any) -> dict[str, list[Any]]:
    """Key -> offset, shape and sum of each part this rank would write."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    state = model.sharded_state_dict(metadata={"dp_cp_group": dist.group.WORLD})
    apply_factories(state)
    found: dict[str, list[Any]] = {}
    for value in nested_values(state):
        if isinstance(value, ShardedTensor):
            part = (value.global_offset, value.global_shape, float(value.data.double().sum()))
            found.setdefault(value.key, []).append(part)
    return {key: sorted(parts) for key, parts in found.items()}
