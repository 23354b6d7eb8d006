# SPDX-License-Identifier: Apache-2.0
"""On a rank: a small GPT trained by megatron-core itself, in several layouts, on a CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tests.rank import rank_on_cpu

STEPS, SEQUENCE, VOCABULARY, GLOBAL_BATCH = 3, 16, 64, 4


@dataclass(frozen=True, kw_only=True)
class Layout:
    """``optimizer`` turns the distributed optimizer on, with all its overlaps."""

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    optimizer: bool = False
    bf16: bool = False
    experts: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32


def write_losses(work: Path, cases: list[dict[str, Any]]) -> None:
    """Rank 0 writes WORK_DIR/losses-WORLD.json: of each layout, in their order."""
    layouts = [Layout(**values) for values in cases]
    with rank_on_cpu() as started:
        curves = [{"layout": asdict(layout), "losses": train(layout)} for layout in layouts]
    if started.ranks.rank == 0:
        (work / f"losses-{started.ranks.world_size}.json").write_text(json.dumps(curves))


def train(layout: Layout) -> list[float]:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    parallel_state.initialize_model_parallel(
        layout.tp, layout.pp, layout.vpp if layout.vpp > 1 else None
    )
    model_parallel_cuda_manual_seed(1)
    config = transformer_config(layout)
    torch.manual_seed(0)
    chunks = [wrapped(config, layout, stage) for stage in range(layout.vpp)]
    optimizer = make_optimizer(config, layout, chunks)
    losses = [train_step(config, chunks, optimizer) for _ in range(STEPS)]
    parallel_state.destroy_model_parallel()
    return losses


def transformer_config(layout: Layout) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig

    experts = {
        "num_moe_experts": layout.experts,
        "moe_router_topk": 2,
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_ffn_hidden_size": 32,
    }
    return TransformerConfig(
        num_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=64,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        normalization="RMSNorm",
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        pipeline_dtype=layout.dtype,
        params_dtype=layout.dtype,
        bf16=layout.bf16,
        use_cpu_initialization=True,
        init_method=draw_by_shape,
        output_layer_init_method=draw_by_shape,
        embedding_init_method=draw_by_shape,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        overlap_p2p_comm=layout.vpp > 1,
        batch_p2p_comm=layout.vpp == 1,
        **(experts if layout.experts else {}),
    )


def draw_by_shape(weight: torch.Tensor) -> torch.Tensor:
    """The same weights in every layout: a layer's number, stage and rank play no part."""
    generator = torch.Generator().manual_seed(weight.numel())
    return weight.data.normal_(0.0, 0.1, generator=generator)


def wrapped(config: Any, layout: Layout, stage: int) -> Any:
    """One pipeline chunk in its wrappers, as a trainer would hold it."""
    from megatron.core import parallel_state
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.module import Float16Module

    virtual = {"vp_stage": stage} if layout.vpp > 1 else {}
    chunk = GPTModel(
        config,
        get_gpt_layer_local_spec(num_experts=layout.experts or None, normalization="RMSNorm"),
        VOCABULARY,
        SEQUENCE,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=not virtual, **virtual),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=not virtual, **virtual),
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
        **virtual,
    )
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=layout.optimizer,
        overlap_grad_reduce=layout.optimizer,
        overlap_param_gather=layout.optimizer,
    )
    inner = Float16Module(config, chunk) if layout.bf16 else chunk
    return DistributedDataParallel(config, ddp, inner)


def make_optimizer(config: Any, layout: Layout, chunks: list[Any]) -> Any:
    from megatron.core.distributed.finalize_model_grads import finalize_model_grads
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

    settings = OptimizerConfig(
        optimizer="adam",
        lr=1e-2,
        bf16=layout.bf16,
        params_dtype=layout.dtype,
        use_distributed_optimizer=layout.optimizer,
        clip_grad=1.0,
    )
    optimizer = get_megatron_optimizer(settings, chunks)
    config.grad_scale_func = optimizer.scale_loss
    config.finalize_model_grads_func = finalize_model_grads
    if layout.optimizer:
        syncs = [chunk.no_sync for chunk in chunks]
        config.no_sync_func = syncs if len(syncs) > 1 else syncs[0]
    return optimizer


def train_step(config: Any, chunks: list[Any], optimizer: Any) -> float:
    """One optimizer step over the same few samples; their mean loss before it, on every rank."""
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    replicas = parallel_state.get_data_parallel_world_size()
    reports = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[samples() for _ in chunks] if len(chunks) > 1 else samples(),
        model=chunks if len(chunks) > 1 else chunks[0],
        num_microbatches=GLOBAL_BATCH // replicas,
        seq_length=SEQUENCE,
        micro_batch_size=1,
        forward_only=False,
    )
    succeeded, _, _ = optimizer.step()
    assert succeeded
    total = torch.tensor(sum((float(report["loss"]) for report in reports), 0.0))
    torch.distributed.all_reduce(total)
    return float(total) / (GLOBAL_BATCH * config.tensor_model_parallel_size)


def samples() -> Iterator[torch.Tensor]:
    """This replica's samples, one a microbatch."""
    from megatron.core import parallel_state

    tokens = torch.randint(
        0, VOCABULARY, (GLOBAL_BATCH, SEQUENCE + 1), generator=torch.Generator().manual_seed(0)
    )
    first = parallel_state.get_data_parallel_rank()
    for sample in tokens[first :: parallel_state.get_data_parallel_world_size()]:
        yield sample[None]


def forward_step(data: Iterator[torch.Tensor], model: Any) -> Any:
    sample = next(data)
    positions = torch.arange(SEQUENCE)[None]
    mask = torch.triu(torch.ones(SEQUENCE, SEQUENCE, dtype=torch.bool), 1)[None, None]
    output = model(sample[:, :-1], positions, mask, labels=sample[:, 1:])

    def loss_function(losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = losses.float().mean()
        return loss, {"loss": loss.detach().clone()}

    return output, loss_function
