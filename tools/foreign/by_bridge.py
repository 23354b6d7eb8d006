# SPDX-License-Identifier: Apache-2.0
"""Import a Hugging Face folder with Megatron-Bridge and save it, on a CPU:
``python tools/foreign/by_bridge.py HF_FOLDER OUTPUT PORT``; started by check.py.

megacpt's import hook lets megatron-core run here; all else is Bridge's own.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import stand_ins  # noqa: E402
import torch  # noqa: E402

from megacpt.device.cpu import import_hook  # noqa: E402

ON_A_CPU = {
    "use_cpu_initialization": True,
    "transformer_impl": "local",
    **dict.fromkeys(
        (
            *("masked_softmax_fusion", "bias_activation_fusion", "bias_dropout_fusion"),
            *("gradient_accumulation_fusion", "apply_rope_fusion", "moe_grouped_gemm"),
            *("persist_layer_norm", "moe_permute_fusion", "moe_router_fusion"),
            "cross_entropy_loss_fusion",
        ),
        False,
    ),
}


def main(arguments: list[str]) -> None:
    source, output, port = arguments
    stand_ins.install()
    import_hook.install()
    logging.disable(logging.INFO)
    # Bridge saves the generators' states and waits for the device, whichever it is.
    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
    torch.cuda.current_device = lambda: 0
    torch.cuda.synchronize = lambda *_: None
    _be_the_only_rank(port)
    _import(source, output=output)


def _be_the_only_rank(port: str) -> None:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    world = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ.update(world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel(1, 1)
    model_parallel_cuda_manual_seed(1)


def _import(source: str, *, output: str) -> None:
    from megatron.bridge import AutoBridge

    bridge = AutoBridge.from_hf_pretrained(source)
    provider = bridge.to_megatron_provider(load_weights=True)
    provider.transformer_layer_spec = _local_spec
    for name, value in ON_A_CPU.items():
        if hasattr(provider, name):
            setattr(provider, name, value)
    provider.finalize()
    model = provider.provide_distributed_model(
        wrap_with_ddp=False, use_cpu_initialization=True, init_model_with_meta_device=False
    )
    bridge.save_megatron_model(model, output)


def _local_spec(config: Any, vp_stage: int | None = None) -> Any:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    return get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts,
        moe_grouped_gemm=False,
        qk_layernorm=config.qk_layernorm,
        normalization=config.normalization,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
