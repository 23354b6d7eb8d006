# SPDX-License-Identifier: Apache-2.0
"""On a rank: one step of adapters, within the plain layers' product and beside it.

WORK/models/MODEL is a model's folder. Each rank writes WORK/LAYOUT-METHOD-RANK.pt: by the way in
which the update is computed, the loss and this rank's part of the gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from megacpt.config.sections import AdapterConfig, ParallelConfig
from tests.model.adapters.training_runs import (
    BATCHES,
    LAYOUTS,
    METHODS,
    Run,
    build,
    own_microbatches,
    wrapped,
)
from tests.model.case_outputs import slices
from tests.rank import rank_on_cpu

MODEL = "llama"
"""Its linear layers have biases, which a gain leaves alone."""
NOISE = 0.05
COMPARED = ("lora", "dora", "lora_xs", "pissa")
ABLATIONS = {
    "tp2": {"nothing is passed on": ("megacpt.model.adapters.beside", "_passed_on")},
    "tp2-sp": {"no gradient is summed": ("megacpt.model.adapters.linear", "Factors.shared")},
}


def write_runs(work: Path, layouts: list[str]) -> None:
    with rank_on_cpu(timeout_minutes=10):
        from megatron.core import parallel_state

        from megacpt.device.groups import initialise_parallel

        for layout in layouts:
            initialise_parallel(ParallelConfig(**LAYOUTS[layout]), seed=1)
            for method in COMPARED:
                found = {"within": step(work, method=method, layout=layout)}
                found["beside"] = step(work, method=method, layout=layout, beside=True)
                for what, of in ABLATIONS.get(layout, {}).items():
                    with without(*of):
                        found[what] = step(work, method=method, layout=layout, beside=True)
                torch.save(found, work / f"{layout}-{method}-{torch.distributed.get_rank()}.pt")
            parallel_state.destroy_model_parallel()


@contextmanager
def without(module: str, what: str) -> Iterator[None]:
    def as_it_is(given: Any, **_: Any) -> Any:
        return given() if callable(given) else given

    with mock.patch(f"{module}.{what}", as_it_is):
        yield


def step(work: Path, *, method: str, layout: str, beside: bool = False) -> dict[str, Any]:
    from megacpt.model.forward import run_microbatches

    parallel = ParallelConfig(**LAYOUTS[layout])
    run = Run(model=MODEL, settings=METHODS[method])
    chunks, architecture = build(work, run=run, parallel=parallel, name=method)
    stir(chunks, architecture=architecture)
    if beside:
        lay_beside(chunks)
    state = wrapped(chunks, parallel=parallel, adapter=AdapterConfig())
    for chunk in state.chunks:
        chunk.train()
        chunk.zero_grad_buffer()
    sums = run_microbatches(
        state.chunks,
        microbatches=own_microbatches(BATCHES[0]),
        num_sources=1,
        forward_only=False,
    )
    return {
        "loss": sums.mean_loss,
        "gradients": slices(state.chunks, architecture=architecture, of="gradients"),
    }


@torch.no_grad()
def stir(chunks: list[Any], *, architecture: Any) -> None:
    """Add to each trained tensor what is drawn by its name, as factors of zeros prove nothing."""
    from megacpt.model.placement import placed_params
    from megacpt.model.weights import within

    for placed in placed_params(chunks, architecture=architecture):
        row, cut = placed.row, placed.cut
        views = row.views(placed.tensor.data, architecture=architecture, tp=cut.size)
        for source, view in zip(row.sources, views, strict=True):
            if not row.of_adapter or not placed.tensor.requires_grad:
                continue
            name = placed.hf_name(source)
            generator = torch.Generator().manual_seed(sum(name.encode()))
            whole = NOISE * torch.randn(source.shape(architecture), generator=generator)
            span = slice(0)
            if row.tp_dim is not None:
                span = row.span(view, source=source, architecture=architecture, rank=cut.rank)
            view.add_(within(whole, dim=row.tp_dim, span=span).reshape(view.shape))


def lay_beside(chunks: list[Any]) -> None:
    """Over the plain layers what is laid over Transformer Engine's."""
    from megacpt.model.adapters.beside import BesideLinear
    from megacpt.model.adapters.linear import AdaptedLayer

    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, AdaptedLayer):
                _, plain = type(module).__bases__
                module.__class__ = type("BesideLinear", (BesideLinear, plain), {})
