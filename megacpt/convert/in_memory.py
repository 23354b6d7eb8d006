# SPDX-License-Identifier: Apache-2.0
"""The weights of a model in memory as Hugging Face tensors, without a copy of any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state

from megacpt.convert.native.layout import Run, runs_of
from megacpt.convert.sources import SourceTensor
from megacpt.families.architecture import Architecture
from megacpt.model.placement import placed_params


def model_tensors(chunks: Sequence[Any], *, architecture: Architecture) -> dict[str, SourceTensor]:
    """Of chunks at tp = pp = ep = 1."""
    assert parallel_state.get_tensor_model_parallel_world_size() == 1
    assert parallel_state.get_pipeline_model_parallel_world_size() == 1
    assert parallel_state.get_expert_model_parallel_world_size() == 1
    found = {}
    for placed in placed_params(chunks, architecture=architecture):
        weight = placed.tensor.detach()
        runs = runs_of(placed.row, architecture=architecture)
        for number, source in enumerate(placed.row.sources):
            own = [run for run in runs if run.source == number]
            found[placed.hf_name(source)] = SourceTensor(
                shape=source.shape(architecture),
                dtype=weight.dtype,
                fill=partial(_fill, weight=weight, runs=own),
            )
    return found


@torch.no_grad()
def _fill(out: torch.Tensor, *, first: int, weight: torch.Tensor, runs: Sequence[Run]) -> None:
    for run in runs:
        start, end = max(run.hf, first), min(run.hf + run.count, first + len(out))
        if start < end:
            native = run.native + start - run.hf
            out[start - first : end - first].copy_(weight[native : native + end - start])
