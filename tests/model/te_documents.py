# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine's layers of a model with masked documents, in a process of their own.

Without a GPU the kernels cannot run, so each is stood in for by its formula in torch: the linear
layers and norms, the rotary positions (Transformer Engine's own unfused code) and, behind its
DotProductAttention with all its checks, the fused attention. What megatron-core and Transformer
Engine make of the batch up to there is real. WORK_DIR/found.pt gets the arguments of the fused
attention, one entry a layer, and the logits beside those of the plain layers with the same weights.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from torch.nn.functional import layer_norm, linear, rms_norm

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig

BOUNDS = [0, 5, 32, 33, 64]
"""Two rows of 32 tokens, end to end."""
LENGTH = 32


class Hopper:
    """What Transformer Engine asks of a device before it is used."""

    name, major, minor, multi_processor_count, total_memory = "H100", 9, 0, 132, 80 << 30


def pretend_a_gpu(capability: tuple[int, int] = (9, 0)) -> None:
    Hopper.major, Hopper.minor = capability
    torch._dynamo.config.disable = True  # compiling would look for the GPU
    torch.cuda.is_available = lambda: True
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    torch.cuda.get_device_capability = lambda *_: capability
    torch.cuda.get_device_name = lambda *_: Hopper.name
    torch.cuda.get_device_properties = lambda *_: Hopper()  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.Stream = lambda *_, **__: None  # type: ignore[assignment,misc]
    torch.Tensor.is_cuda = property(lambda _: True)  # type: ignore[assignment]
    zeros = torch.zeros

    def on_the_host(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        """Transformer Engine names the device of sinks."""
        return zeros(*args, device=None if device == "cuda" else device, **kwargs)

    torch.zeros = on_the_host  # type: ignore[assignment]


def stand_in_for_kernels(calls: list[dict[str, Any]]) -> None:
    import transformer_engine.pytorch as te
    from megatron.core.extensions import transformer_engine as layers
    from megatron.core.transformer.moe import moe_utils
    from transformer_engine.pytorch.attention import rope
    from transformer_engine.pytorch.attention.dot_product_attention import backends, utils

    def fused_attention(self: Any, *qkv: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        from megacpt.model.layers.attention.causal import CausalAttention, packed_documents
        from megacpt.model.layers.attention.sinks import SinkAttention

        calls.append({name: kwargs[name] for name in RECORDED})
        packed = None
        if kwargs["qkv_layout"].startswith("thd"):
            packed = packed_documents(kwargs["cu_seqlens_q"], longest=kwargs["max_seqlen_q"])
            assert len({x.shape[-1] for x in qkv}) == 1, "packed values are as wide as keys"
        config: Any = ToldByKernel(window=kwargs["window_size"])
        core = CausalAttention(config, layer_number=1, softmax_scale=self.softmax_scale)
        if self.softmax_type == "learnable":
            core.__class__ = SinkAttention
            core.softmax_offset = torch.nn.Parameter(kwargs["softmax_offset"].flatten())
        return core(*qkv, None, packed_seq_params=packed)

    def rotated(t: Any, freqs: Any, _: None, layout: str, __: bool, bounds: Any, *___: int) -> Any:
        return rope.apply_rotary_pos_emb(t, freqs, layout, cu_seqlens=bounds, fused=False)

    f16 = utils.FusedAttnBackend["F16_arbitrary_seqlen"]
    utils.get_attention_backend = lambda _: (False, None, True, f16, False, [False, True, False])
    backends.FusedAttention.forward = fused_attention
    layers.TELinear.forward = product
    layers.TELayerNormColumnParallelLinear.forward = norm_and_product
    layers.TEGroupedLinear.forward = products_of_experts
    te.RMSNorm.forward = norm
    te.LayerNorm.forward = norm
    moe_utils.te_general_gemm = None  # torch's is taken then
    rope.FusedRoPEFunc.apply = rotated


def product(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    if self.te_return_bias:
        return linear(x, self.weight), self.bias
    return linear(x, self.weight, self.bias if self.use_bias else None), None


def norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    bias = getattr(self, "bias", None)
    return normed(x, weight=self.weight, bias=bias, module=self)


def norm_and_product(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    bias = self.layer_norm_bias
    return product(self, normed(x, weight=self.layer_norm_weight, bias=bias, module=self))


def normed(
    x: torch.Tensor, *, weight: torch.Tensor, bias: torch.Tensor | None, module: Any
) -> torch.Tensor:
    """Transformer Engine's LayerNorm always has a bias, its RMSNorm none."""
    scale = weight + 1.0 if module.zero_centered_gamma else weight
    if bias is None:
        return rms_norm(x, x.shape[-1:], scale, eps=module.eps)
    return layer_norm(x, x.shape[-1:], scale, bias, module.eps)


def products_of_experts(self: Any, x: torch.Tensor, m_splits: list[int]) -> tuple[Any, Any]:
    parts = torch.split(x, m_splits)
    outs = [linear(part, getattr(self, f"weight{n}")) for n, part in enumerate(parts)]
    if not self.use_bias:
        return torch.cat(outs), None
    biases = [getattr(self, f"bias{n}") for n in range(len(parts))]
    if self.te_return_bias:
        return torch.cat(outs), biases
    return torch.cat([out + bias for out, bias in zip(outs, biases, strict=True)]), None


RECORDED = ["qkv_layout", "cu_seqlens_q", "cu_seqlens_kv", "max_seqlen_q", "max_seqlen_kv"]
RECORDED += ["attn_mask_type", "pad_between_seqs", "cu_seqlens_q_padded", "window_size"]


class ToldByKernel:
    """What a kernel is told of the configuration."""

    context_parallel_size = 1
    attention_dropout = 0.0
    window_attn_skip_freq = None

    def __init__(self, *, window: tuple[int, int]) -> None:
        self.window_size = None if window[0] == -1 else window


def build(folder: Path, kind: DeviceKind, **changes: Any) -> Any:
    """One chunk with random weights; ``changes``: of megatron-core's configuration."""
    from megacpt.families import read_architecture
    from megacpt.model import build as module
    from megacpt.model.weights import initialise_randomly

    architecture = read_architecture(folder)
    made = module.transformer_config

    def on_this_machine(*args: Any, **kwargs: Any) -> Any:
        config = made(*args, **kwargs)
        for name, value in {"use_cpu_initialization": True, **changes}.items():
            setattr(config, name, value)
        return config

    module.transformer_config = on_this_machine
    chunks = module.build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=kind,
        sequence_length=LENGTH,
    )
    module.transformer_config = made
    initialise_randomly(chunks, architecture=architecture, seed=3)
    return chunks[0]


def logits_of(model: Any) -> torch.Tensor:
    from megacpt.model.layers.attention.causal import packed_documents

    tokens = torch.randint(0, 257, (1, BOUNDS[-1]), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(stop - start) for start, stop in pairwise(BOUNDS)])
    packed = packed_documents(torch.tensor(BOUNDS, dtype=torch.int32), longest=31)
    with torch.no_grad():
        output: torch.Tensor = model(tokens, positions[None], None, packed_seq_params=packed)
    return output


def describe(work: Path, _: Any) -> None:
    folder = work / "model"
    pretend_a_gpu()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    calls: list[dict[str, Any]] = []
    stand_in_for_kernels(calls)
    model = build(folder, DeviceKind.gpu)
    found = {
        "logits": logits_of(model),
        "calls": calls,
        "expected_logits": logits_of(build(folder, DeviceKind.cpu)),
        "core_attention": type(model.decoder.layers[0].self_attention.core_attention).__name__,
        "rope_is_fused": model.config.apply_rope_fusion,
    }
    torch.save(found, work / "found.pt")
