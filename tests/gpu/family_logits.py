# SPDX-License-Identifier: Apache-2.0
"""On the rank of a GPU: logits of small models of every family.

Models are in WORK/fp32 and WORK/bf16, by case. What is found goes to WORK/TYPE-CASE.pt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from tests.model.case_outputs import TOKENS_BS, microbatch


def write_logits(work: Path, cases: list[str]) -> None:
    ranks = rank_from_environment()
    assert ranks is not None
    cluster = ClusterConfig(device=DeviceKind.gpu, threads_per_rank=1)
    started = runtime.start(ranks, cluster=cluster)
    from megacpt.device.groups import initialise_parallel

    initialise_parallel(ParallelConfig(), seed=1)
    for dtype in Dtype:
        for case in cases:
            found = outputs(work / dtype.value / case, dtype=dtype, device=started.device)
            torch.save(found, work / f"{dtype.value}-{case}.pt")
    runtime.stop()


def outputs(folder: Path, *, dtype: Dtype, device: torch.device) -> dict[str, Any]:
    """Of whole samples; in bf16, as kernels for it take no other, of documents too."""
    from megatron.core.transformer.module import Float16Module

    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.forward import run_logits
    from megacpt.model.weights import load_hf

    architecture = read_architecture(folder)
    chunks = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=dtype),
        kind=DeviceKind.gpu,
        sequence_length=TOKENS_BS.shape[1],
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    for chunk in chunks:
        chunk.to(device)
    if dtype is Dtype.bf16:
        chunks = [Float16Module(chunk.config, chunk) for chunk in chunks]
    found = {}
    for packed in (False, True) if dtype is Dtype.bf16 else (False,):
        with torch.no_grad():
            logits_BSV = run_logits(chunks, batch=microbatch(packed=packed).to(device))
        assert logits_BSV is not None
        found["packed" if packed else "whole"] = logits_BSV.float().cpu()
    return found
