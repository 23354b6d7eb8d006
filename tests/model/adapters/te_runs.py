# SPDX-License-Identifier: Apache-2.0
"""Adapters on Transformer Engine's layers and on plain ones, in a process of their own.

Kernels are stood in for by their formulas (tests.model.te_documents). WORK/models holds the models;
WORK/MODEL-METHOD.pt gets, of both kinds of layers, logits and the gradients of all that is trained
by the names of a folder; what a checkpoint of the plain layers has otherwise than theirs; weights
whose mark is wrong; and the classes of layers that have an update.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from megacpt.config.sections import (
    AdapterMethod,
    DeviceKind,
    Dtype,
    ParallelConfig,
    PrecisionConfig,
)
from tests.model.adapters.training_runs import Run
from tests.model.case_outputs import TOKENS_BS
from tests.model.te_cases import differences
from tests.model.te_documents import pretend_a_gpu, stand_in_for_kernels


def write_found(work: Path, runs: Sequence[tuple[str, str]]) -> None:
    """``runs``: model and method."""
    pretend_a_gpu()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    stand_in_for_kernels([])
    for model, method in runs:
        run = Run(model=model, settings={"method": AdapterMethod[method]})
        torch.save(compared(work / "models" / model, run=run), work / f"{model}-{method}.pt")


def compared(folder: Path, *, run: Run) -> dict[str, Any]:
    (engine, architecture), (plain, _) = (
        built(folder, run=run, kind=kind) for kind in (DeviceKind.gpu, DeviceKind.cpu)
    )
    return {
        "engine": outputs(engine, architecture=architecture),
        "plain": outputs(plain, architecture=architecture),
        "differences": differences(engine, plain=plain),
        "wrong_marks": wrong_marks(engine, plain=plain, architecture=architecture),
        "layers": {type(m).__name__ for m in engine.modules() if hasattr(m, "add_factors")},
    }


def built(folder: Path, *, run: Run, kind: DeviceKind) -> tuple[Any, Any]:
    """The folder's weights and an adapter that is no longer at its start."""
    from megacpt.families import read_architecture
    from megacpt.families.targets import with_adapter
    from megacpt.model import build as module
    from megacpt.model.adapters.start import start_adapter
    from megacpt.model.hf_tensors import HfTensors
    from megacpt.model.weights import load_hf
    from tests.model.adapters.beside_runs import stir

    base = read_architecture(folder).balanced_by(0.0)
    architecture = with_adapter(base, settings=run.adapter)
    made = module.transformer_config

    def on_this_machine(*args: Any, **kwargs: Any) -> Any:
        config = made(*args, **kwargs)
        config.use_cpu_initialization = True
        # Neither starts kernels, nor waits for streams.
        config.moe_permute_fusion, config.moe_token_dispatcher_type = False, "allgather"
        return config

    with mock.patch.object(module, "transformer_config", on_this_machine):
        chunks = module.build_model(
            architecture,
            parallel=ParallelConfig(),
            precision=PrecisionConfig(dtype=Dtype.fp32),
            kind=kind,
            sequence_length=TOKENS_BS.shape[1],
        )
    load_hf(chunks, folder=folder, architecture=architecture)
    tensors = HfTensors.of_folder(folder, architecture=architecture)
    start_adapter(
        chunks, architecture=architecture, weight=lambda name, source: tensors.read(name), seed=1
    )
    stir(chunks, architecture=architecture)
    return chunks[0], architecture


def outputs(model: Any, *, architecture: Any) -> dict[str, Any]:
    """Logits, and the gradients of their cross entropy."""
    from megacpt.model.placement import placed_params

    positions_BS = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    logits_BSV = model(TOKENS_BS, positions_BS, None)
    torch.nn.functional.cross_entropy(logits_BSV.flatten(0, 1), TOKENS_BS.flatten()).backward()
    gradients = {
        placed.hf_name(source): view.flatten(0, 1).clone()
        for placed in placed_params([model], architecture=architecture)
        if placed.tensor.grad is not None
        for source, view in zip(
            placed.row.sources,
            placed.row.views(placed.tensor.grad, architecture=architecture, tp=1),
            strict=True,
        )
    }
    return {"logits": logits_BSV.detach(), "gradients": gradients}


def wrong_marks(engine: Any, *, plain: Any, architecture: Any) -> list[str]:
    """Of factors, that differ from those of the plain layers."""
    marks = [factor_marks(model, architecture=architecture) for model in (engine, plain)]
    return sorted(str(name) for name in marks[0] if marks[0][name] != marks[1].get(name))


MARKS = ("requires_grad", "tensor_model_parallel", "partition_dim", "allreduce", "role")


def factor_marks(model: Any, *, architecture: Any) -> dict[Any, list[Any]]:
    from megacpt.model.placement import placed_params

    return {
        (placed.row.native, placed.layer, placed.expert): [
            getattr(placed.tensor, mark, None) for mark in MARKS
        ]
        for placed in placed_params([model], architecture=architecture)
        if placed.row.of_adapter
    }
