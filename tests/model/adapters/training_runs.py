# SPDX-License-Identifier: Apache-2.0
"""On a rank: train adapters of small models in layouts, on the batches that the twins see.

WORK/models/MODEL is a model's folder, WORK/start-RUN.pt what a run begins with, by the names of a
folder, where that is not the method's own. Each rank writes WORK/LAYOUT-RUN-RANK.pt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacpt.config.sections import (
    AdapterConfig,
    AdapterMethod,
    DeviceKind,
    Dtype,
    OptimConfig,
    ParallelConfig,
    PrecisionConfig,
)
from megacpt.samples.batch import Batch
from tests.adapter_cases.training import GlobalBatch, drawn_batches
from tests.family_cases import VOCAB_SIZE
from tests.model.case_outputs import slices
from tests.rank import rank_on_cpu

STEPS, LENGTH = 20, 32
LR = 5e-3
LR_OF = {"lora_xs": 2e-2}
"""Of methods that train few numbers."""
BATCHES = drawn_batches(STEPS, vocab_size=VOCAB_SIZE, samples=4, length=LENGTH)
OPTIM = OptimConfig(lr_peak=LR, weight_decay=0.1, clip_grad_norm=1.0)
RANK, ALPHA = 4, 6.0
NEW_FROM = VOCAB_SIZE // 2 + 3
"""With two ranks, one has no new token and the other an old one."""
TP2_SP = {"tp": 2, "sequence_parallel": True}
LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {},
    "tp2": {"tp": 2},
    "tp2-sp": TP2_SP,
    "pp2": {"pp": 2},
    "tp2-pp2": TP2_SP | {"pp": 2},
    "cp2": {"cp": 2},
    "dp2": {"dp": 2, "distributed_optimizer": True},
    "ep2": {"dp": 2, "ep": 2},
    "tp2-ep2": TP2_SP | {"ep": 2, "etp": 1},
}


def ranks_of(layout: str) -> int:
    return ParallelConfig(**LAYOUTS[layout]).num_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A method on a model."""

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of AdapterConfig, beside rank and alpha."""

    @property
    def adapter(self) -> AdapterConfig:
        return AdapterConfig(**{"rank": RANK, "alpha": ALPHA, **self.settings})


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rank_stabilised": True},
    "dora": {"method": AdapterMethod.dora},
    "lora_xs": {"method": AdapterMethod.lora_xs},
    "pissa": {"method": AdapterMethod.pissa},
    "tables": {"train_embedding": True, "train_head": True},
    "new_tokens": {"train_embedding": True, "train_head": True, "new_tokens_from": NEW_FROM},
}


def lr_of(name: str) -> float:
    return LR_OF.get(name.split(".")[1], LR)


def run_named(name: str) -> Run:
    """``MODEL.METHOD``"""
    model, method = name.split(".")
    return Run(model=model, settings=METHODS[method])


def write_runs(work: Path, names: Mapping[str, Sequence[str]]) -> None:
    """``names``: by layout, of the runs."""
    with rank_on_cpu(timeout_minutes=10):
        from megatron.core import parallel_state

        from megacpt.device.groups import initialise_parallel

        for layout, chosen in names.items():
            initialise_parallel(ParallelConfig(**LAYOUTS[layout]), seed=1)
            for name in chosen:
                try:
                    found = train(work, name=name, layout=layout)
                except Exception as error:
                    error.add_note(f"{name} in {layout}")
                    raise
                torch.save(found, work / f"{layout}-{name}-{torch.distributed.get_rank()}.pt")
            parallel_state.destroy_model_parallel()


def train(work: Path, *, name: str, layout: str) -> dict[str, Any]:
    """Losses and gradient norms of all steps, factors before and after, their first gradients."""
    from megacpt.model.forward import run_microbatches
    from megacpt.train.step import gradient_norm, update

    parallel = ParallelConfig(**LAYOUTS[layout])
    chunks, architecture = build(work, run=run_named(name), parallel=parallel, name=name)
    start = slices(chunks, architecture=architecture, of="weights")
    state = wrapped(chunks, parallel=parallel, adapter=run_named(name).adapter)
    losses, norms, gradients = [], [], None
    for batch in BATCHES:
        for chunk in state.chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        state.optimizer.zero_grad()
        sums = run_microbatches(
            state.chunks,
            microbatches=own_microbatches(batch),
            num_sources=1,
            forward_only=False,
        )
        if gradients is None and not parallel.distributed_optimizer:
            gradients = slices(state.chunks, architecture=architecture, of="gradients")
        norm = gradient_norm(state.optimizer)
        update(state.optimizer, norm=norm, lr=lr_of(name), optim=OPTIM)
        losses.append(sums.mean_loss)
        norms.append(norm)
    return {
        "losses": losses,
        "norms": norms,
        "start": start,
        "gradients": gradients,
        "weights": slices(state.chunks, architecture=architecture, of="weights"),
    }


def wrapped(chunks: list[Any], *, parallel: ParallelConfig, adapter: AdapterConfig) -> Any:
    """In fp32, as runs are trained."""
    from megacpt.train.state import wrap_for_training

    return wrap_for_training(
        chunks,
        parallel=parallel,
        precision=PrecisionConfig(dtype=Dtype.fp32),
        optim=OPTIM,
        device=torch.device("cpu"),
        adapter=adapter,
    )


def build(work: Path, *, run: Run, parallel: ParallelConfig, name: str) -> tuple[list[Any], Any]:
    """Chunks with the folder's weights and the run's start."""
    from megacpt.families import read_architecture
    from megacpt.families.targets import with_adapter
    from megacpt.model.adapters.start import start_adapter
    from megacpt.model.build import build_model
    from megacpt.model.hf_tensors import HfTensors
    from megacpt.model.weights import load_hf

    folder = work / "models" / run.model
    base = read_architecture(folder).balanced_by(0.0)
    architecture = with_adapter(base, settings=run.adapter)
    chunks = build_model(
        architecture,
        parallel=parallel,
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=LENGTH,
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    tensors = HfTensors.of_folder(folder, architecture=architecture)
    start_adapter(
        chunks,
        architecture=architecture,
        weight=lambda name, source: tensors.read(name),
        seed=1,
    )
    path = work / f"start-{name}.pt"
    if path.exists():
        put_start(chunks, architecture=architecture, tensors=torch.load(path))
    return chunks, architecture


@torch.no_grad()
def put_start(chunks: list[Any], *, architecture: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Into the factors that are among ``tensors``; all of these must have a place."""
    from megacpt.model.placement import placed_params
    from megacpt.model.weights import within

    for placed in placed_params(chunks, architecture=architecture):
        row, cut = placed.row, placed.cut
        views = row.views(placed.tensor.data, architecture=architecture, tp=cut.size)
        for source, view in zip(row.sources, views, strict=True):
            given = tensors.get(placed.hf_name(source))
            if given is None or not row.of_adapter:
                continue
            span = slice(0)
            if row.tp_dim is not None:
                span = row.span(view, source=source, architecture=architecture, rank=cut.rank)
            view.copy_(within(given, dim=row.tp_dim, span=span).reshape(view.shape))


def own_microbatches(batch: GlobalBatch) -> list[Any]:
    """Of the replica: two, where each has samples enough."""
    from megatron.core import parallel_state

    from megacpt.model.microbatch import host_microbatch

    replicas = parallel_state.get_data_parallel_world_size()
    replica = parallel_state.get_data_parallel_rank()
    own = np.arange(len(batch.tokens_BS)).reshape(replicas, -1)[replica]
    found = []
    for rows in np.array_split(own, 2):
        samples = Batch(
            tokens_BS=batch.tokens_BS[rows].numpy(),
            labels_BS=batch.labels_BS[rows].numpy(),
            loss_mask_BS=batch.loss_mask_BS[rows].numpy(),
            positions_BS=np.tile(np.arange(LENGTH), (len(rows), 1)),
            source_ids_B=np.zeros(len(rows), dtype=np.int64),
            cu_seqlens=tuple(np.array([0, LENGTH], dtype=np.int32) for _ in rows),
        )
        found.append(host_microbatch(samples, document_mask=False, device=torch.device("cpu")))
    return found
