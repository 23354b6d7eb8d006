# SPDX-License-Identifier: Apache-2.0
"""On a rank of the tests of layouts: take each case in each layout, in turn.

Cases are WORK_DIR/models/*; what is found goes to files in WORK_DIR; the test process compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import (
    DeviceKind,
    Dtype,
    ParallelConfig,
    PrecisionConfig,
)
from tests.llama_cases import TOKENS_BS, divides
from tests.rank import rank_on_cpu


def write_outputs(work: Path, layouts: dict[str, dict[str, Any]]) -> None:
    with rank_on_cpu(timeout_minutes=10):
        from megatron.core import parallel_state

        from megacpt.device.groups import initialise_parallel

        for layout, fields in layouts.items():
            parallel = ParallelConfig(**fields)
            initialise_parallel(parallel, seed=1)
            for folder in sorted((work / "models").iterdir()):
                if divides(folder, parallel.tp):
                    run_case(work, layout, folder, parallel)
            parallel_state.destroy_model_parallel()


def run_case(work: Path, layout: str, folder: Path, parallel: ParallelConfig) -> None:
    from megacpt.families import read_architecture
    from megacpt.model.weights import initialise_randomly, load_hf

    architecture = read_architecture(folder)
    chunks = build(architecture, parallel, Dtype.fp32)
    initialise_randomly(chunks, architecture=architecture, seed=5)
    write_slices(work, layout, folder.name, chunks, architecture)
    load_hf(chunks, folder=folder, architecture=architecture)
    write_logits(work, layout, folder.name, chunks)


def build(architecture: Any, parallel: ParallelConfig, dtype: Dtype) -> list[Any]:
    from megacpt.model.build import build_model

    return build_model(
        architecture,
        parallel=parallel,
        precision=PrecisionConfig(dtype=dtype),
        kind=DeviceKind.cpu,
        sequence_length=TOKENS_BS.shape[1],
    )


def write_slices(work: Path, layout: str, case: str, chunks: list[Any], architecture: Any) -> None:
    """What each Hugging Face tensor became on this rank: name -> (tp_dim, part, tensor)."""
    from megacpt.model.placement import placed_params

    slices: dict[str, Any] = {}
    for placed in placed_params(chunks, architecture=architecture):
        cut, row = placed.cut, placed.row
        views = row.views(placed.tensor.detach(), architecture=architecture, tp=cut.size)
        for source, view in zip(row.sources, views, strict=True):
            part = (row.tp_dim, cut.rank, view.flatten(0, 1).clone())
            slices[placed.hf_name(source)] = part
    torch.save(slices, work / f"slices-{layout}-{case}-{torch.distributed.get_rank()}.pt")


def write_logits(work: Path, layout: str, case: str, chunks: list[Any]) -> None:
    """Logits of the whole vocabulary, padding included, and losses, from the last stage."""
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)

    def step(labels: Any, model: Any) -> Any:
        labels_BS = next(labels)
        output = model(TOKENS_BS, positions_BS, None, labels=labels_BS)
        return output, lambda out, non_loss_data: out

    def run(labels_BS: torch.Tensor | None) -> Any:
        # The interleaved schedule wants as many microbatches as pipeline ranks.
        iterators = [iter([labels_BS] * 2) for _ in chunks]
        collected = get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=iterators if len(chunks) > 1 else iterators[0],
            model=chunks if len(chunks) > 1 else chunks[0],
            num_microbatches=2,
            seq_length=TOKENS_BS.shape[1],
            micro_batch_size=TOKENS_BS.shape[0],
            forward_only=True,
            collect_non_loss_data=True,
        )
        return collected[0] if collected else None

    with torch.no_grad():
        logits_BSV, losses_BS = run(None), run(TOKENS_BS)
        if logits_BSV is not None:
            logits_BSV = gather_from_tensor_model_parallel_region(logits_BSV)
            ranks = (
                parallel_state.get_tensor_model_parallel_rank,
                parallel_state.get_data_parallel_rank,
            )
            if not any(rank() for rank in ranks):
                torch.save((logits_BSV, losses_BS), work / f"logits-{layout}-{case}.pt")
