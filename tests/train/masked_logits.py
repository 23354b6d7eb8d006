# SPDX-License-Identifier: Apache-2.0
"""On a rank of test_documents.py: logits of masked documents in several layouts.

A layout named ``gpu`` runs there, in bf16, on Transformer Engine's layers; all others on the CPU.
Writes WORK_DIR/LAYOUT-DTYPE-CHANGED-ROW.pt for each row of the batch, CHANGED being the number of
the document in row 0 that got other tokens (or ``none``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacpt.config.sections import (
    ClusterConfig,
    DeviceKind,
    Dtype,
    ParallelConfig,
    PrecisionConfig,
)
from megacpt.device import runtime
from megacpt.device.environment import rank_from_environment
from megacpt.samples.batch import Batch
from tests.llama_cases import TOKENS_BS, VOCAB_SIZE

BOUNDS = ([0, 30, 96], [0, 1, 47, 72, 96])
"""Documents of unequal length, and unequally many in the two rows."""
CHANGES = ("none", "0", "1")


def write_all(work: Path, layouts: dict[str, dict[str, Any]]) -> None:
    ranks = rank_from_environment()
    assert ranks is not None
    kind = DeviceKind.gpu if "gpu" in layouts else DeviceKind.cpu
    started = runtime.start(ranks, cluster=ClusterConfig(device=kind, threads_per_rank=1))
    from megatron.core import parallel_state

    from megacpt.device.groups import initialise_parallel

    for layout, fields in layouts.items():
        parallel = ParallelConfig(**fields)
        initialise_parallel(parallel, seed=1)
        for dtype in [Dtype.bf16] if kind is DeviceKind.gpu else list(Dtype):
            chunks = build(work / "model", parallel, dtype, started)
            for changed in CHANGES:
                name = f"{layout}-{dtype.value}-{changed}"
                write_logits(work, name, chunks, changed, started.device)
        parallel_state.destroy_model_parallel()
    runtime.stop()


def build(
    folder: Path, parallel: ParallelConfig, dtype: Dtype, started: runtime.Runtime
) -> list[Any]:
    from megatron.core.transformer.module import Float16Module

    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    architecture = read_architecture(folder)
    chunks = build_model(
        architecture,
        parallel=parallel,
        precision=PrecisionConfig(dtype=dtype),
        kind=started.kind,
        sequence_length=TOKENS_BS.shape[1],
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    for chunk in chunks:
        chunk.to(started.device)
    if dtype is Dtype.bf16:
        chunks = [Float16Module(chunk.config, chunk) for chunk in chunks]
    return chunks


def changed_tokens(changed: str) -> torch.Tensor:
    """The batch with other tokens in one document of row 0."""
    tokens_BS = TOKENS_BS.clone()
    if changed != "none":
        start, stop = BOUNDS[0][int(changed)], BOUNDS[0][int(changed) + 1]
        tokens_BS[0, start:stop] = (tokens_BS[0, start:stop] + 7) % VOCAB_SIZE
    return tokens_BS


def batch_of(rows: list[int], changed: str) -> Batch:
    tokens_BS = changed_tokens(changed)[rows].numpy()
    return Batch(
        tokens_BS=tokens_BS,
        labels_BS=tokens_BS,
        loss_mask_BS=np.ones(tokens_BS.shape, dtype=np.float32),
        positions_BS=np.stack(
            [np.concatenate([np.arange(n) for n in np.diff(BOUNDS[row])]) for row in rows]
        ),
        source_ids_B=np.zeros(len(rows), dtype=np.int64),
        cu_seqlens=tuple(np.array(BOUNDS[row], dtype=np.int32) for row in rows),
    )


def write_logits(
    work: Path, name: str, chunks: list[Any], changed: str, device: torch.device
) -> None:
    """Both rows at once; with two replicas, one each."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    from megacpt.model.forward import run_logits
    from megacpt.model.microbatch import host_microbatch

    replicas = parallel_state.get_data_parallel_world_size()
    rows = [0, 1] if replicas == 1 else [parallel_state.get_data_parallel_rank()]
    batch = host_microbatch(batch_of(rows, changed), document_mask=True, device=device)
    with torch.no_grad():
        logits_BSV = run_logits(chunks, batch=batch.to(device))
        if logits_BSV is not None:
            logits_BSV = gather_from_tensor_model_parallel_region(logits_BSV)
            if parallel_state.get_tensor_model_parallel_rank() == 0:
                for row, logits_SV in zip(rows, logits_BSV[..., :VOCAB_SIZE], strict=True):
                    torch.save(logits_SV.cpu().clone(), work / f"{name}-{row}.pt")
