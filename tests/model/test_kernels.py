# SPDX-License-Identifier: Apache-2.0
"""Which kernels a run uses, by its settings and its device."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest

from megacpt.config.sections import (
    DeviceKind,
    Dtype,
    KernelsConfig,
    ParallelConfig,
    PrecisionConfig,
)
from megacpt.model.kernels import (
    BUCKET_PARAMETERS,
    KERNELS,
    Choice,
    bucket_parameters,
    kernel_settings,
    resolved,
    wanted,
)

ON_GPU = {
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "masked_softmax_fusion",
    "apply_rope_fusion",
    "gradient_accumulation_fusion",
    "cross_entropy_loss_fusion",
}


def switched_on(
    *,
    kind: DeviceKind = DeviceKind.gpu,
    kernels: KernelsConfig | None = None,
    parallel: ParallelConfig | None = None,
    dtype: Dtype = Dtype.bf16,
) -> set[str]:
    choice = Choice(
        kernels=kernels or KernelsConfig(),
        parallel=parallel or ParallelConfig(),
        precision=PrecisionConfig(dtype=dtype),
        kind=kind,
    )
    return {name for name, on in wanted(choice).items() if on}


def test_a_gpu_has_all_fusions() -> None:
    assert switched_on() == ON_GPU


def test_a_cpu_has_none() -> None:
    asked = KernelsConfig(tp_comm_overlap=True)
    assert switched_on(kind=DeviceKind.cpu, kernels=asked) == set()


@pytest.mark.parametrize(
    ("switch", "name"),
    [
        ("rope_fusion", "apply_rope_fusion"),
        ("grad_accum_fusion", "gradient_accumulation_fusion"),
        ("cross_entropy_fusion", "cross_entropy_loss_fusion"),
    ],
)
def test_each_setting_switches_its_own(switch: str, name: str) -> None:
    assert switched_on(kernels=KernelsConfig(**{switch: False})) == ON_GPU - {name}


def test_the_fused_loss_would_round_the_gradient_of_an_fp32_run() -> None:
    assert switched_on(dtype=Dtype.fp32) == ON_GPU - {"cross_entropy_loss_fusion"}


def test_cut_weights_have_no_buffer_to_add_to() -> None:
    parallel = ParallelConfig(dp=2, sharded_weights=True)
    assert switched_on(parallel=parallel) == ON_GPU - {"gradient_accumulation_fusion"}


def test_deterministic() -> None:
    found = switched_on(kernels=KernelsConfig(deterministic=True))
    assert found == ON_GPU - {"cross_entropy_loss_fusion"} | {"deterministic_mode"}


def test_overlap_is_asked_for() -> None:
    asked = KernelsConfig(tp_comm_overlap=True)
    assert switched_on(kernels=asked) == ON_GPU | {"tp_comm_overlap"}


def test_buckets_are_large_on_gpus_that_overlap() -> None:
    overlapping = ParallelConfig(dp=2, overlap_grad_reduce=True)
    assert bucket_parameters(overlapping, on_gpu=True) == BUCKET_PARAMETERS
    assert bucket_parameters(overlapping, on_gpu=False) is None
    assert bucket_parameters(ParallelConfig(dp=2), on_gpu=True) is None


def test_the_record_is_what_the_model_has() -> None:
    transformer = SimpleNamespace(**{kernel.name: False for kernel in KERNELS})
    transformer.bias_dropout_fusion = True
    found = resolved(transformer)
    assert {name for name, on in found.items() if on} == {"bias_dropout_fusion"}
    assert len(found) == len(KERNELS)


@pytest.mark.mcore
def test_megatron_core_knows_every_switch_and_lacks_what_this_machine_lacks(
    one_rank: None,
) -> None:
    from megatron.core.transformer import TransformerConfig

    for kind in (DeviceKind.cpu, DeviceKind.gpu):
        found = kernel_settings(
            KernelsConfig(),
            parallel=ParallelConfig(),
            precision=PrecisionConfig(),
            kind=kind,
        )
        assert found.keys() <= inspect.signature(TransformerConfig).parameters.keys()
    has_apex = importlib.util.find_spec("fused_weight_gradient_mlp_cuda") is not None
    assert found["gradient_accumulation_fusion"] == has_apex
    assert found["cross_entropy_fusion_impl"] == "native"
    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    assert resolved(config) == {kernel.name: False for kernel in KERNELS}


@pytest.mark.te
def test_transformer_engine_takes_the_buffers_as_they_are_asked_for() -> None:
    """What ``start_communication_overlap`` calls; the call itself needs GPUs that share NVLink."""
    code = (
        "import inspect\n"
        "from transformer_engine.pytorch.module import base\n"
        "print(*inspect.signature(base.initialize_ub).parameters)\n"
        "print(*base.UserBufferQuantizationMode.__members__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("Transformer Engine cannot be imported")
    arguments, modes = (set(line.split()) for line in done.stdout.splitlines()[-2:])
    assert {"shape", "tp_size", "quantization_modes", "bootstrap_backend"} <= arguments
    assert {"FP8", "NONE"} <= modes
