# SPDX-License-Identifier: Apache-2.0
"""Convert with Megatron-Bridge, on a CPU; started by check.py and the benchmark of conversion.

    python tools/foreign/by_bridge.py HF_FOLDER OUTPUT PORT
    python tools/foreign/by_bridge.py CHECKPOINT OUTPUT PORT HF_FOLDER

Prints the seconds of that without the imports, and the peak of resident memory in KiB. megacpt's
import hook lets megatron-core run here; all else is Bridge's own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
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
    source, output, port, *base = arguments
    stand_ins.install()
    import_hook.install()
    logging.disable(logging.INFO)
    # Bridge saves the generators' states and waits for the device, whichever it is.
    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
    torch.cuda.current_device = lambda: 0
    torch.cuda.synchronize = lambda *_: None
    _be_the_only_rank(port)
    import megatron.bridge  # noqa: F401

    before = time.monotonic()
    if base:
        _export(source, output=output, base=base[0])
    else:
        _import(source, output=output)
    elapsed_s = time.monotonic() - before
    status = Path("/proc/self/status").read_text().splitlines()
    print(elapsed_s, next(line.split()[1] for line in status if line.startswith("VmHWM")))


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
    bridge.save_megatron_model(_model(bridge, load_weights=True), output)


def _export(source: str, *, output: str, base: str) -> None:
    from megatron.bridge import AutoBridge
    from megatron.bridge.training.checkpointing import _load_model_weights_from_checkpoint

    bridge = AutoBridge.from_hf_pretrained(base)
    model = _model(bridge, load_weights=False)
    (iteration,) = Path(source).glob("iter_*")
    _load_model_weights_from_checkpoint(str(iteration), model)
    bridge.save_hf_weights(model, output)


def _model(bridge: Any, *, load_weights: bool) -> Any:
    provider = bridge.to_megatron_provider(load_weights=load_weights)
    provider.transformer_layer_spec = _local_spec
    for name, value in ON_A_CPU.items():
        if hasattr(provider, name):
            setattr(provider, name, value)
    provider.finalize()
    return provider.provide_distributed_model(
        wrap_with_ddp=False, use_cpu_initialization=True, init_model_with_meta_device=False
    )


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
