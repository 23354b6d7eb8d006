# SPDX-License-Identifier: Apache-2.0
"""On a rank: its part of a folder's model in one layout, for forward passes in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.device.runtime import Runtime
from megacpt.families.architecture import Architecture


@contextmanager
def chunks_in(
    layout: Mapping[str, Any],
    *,
    folder: Path,
    architecture: Architecture,
    runtime: Runtime,
    sequence_length: int,
) -> Iterator[list[Any]]:
    """``layout``: of ParallelConfig. Its groups are there while this is open."""
    from megatron.core import parallel_state

    from megacpt.device.groups import initialise_parallel
    from megacpt.model.build import build_model
    from megacpt.model.chunks import wrap_for_forward
    from megacpt.model.weights import load_hf

    parallel, precision = ParallelConfig(**layout), PrecisionConfig(dtype=Dtype.fp32)
    initialise_parallel(parallel, seed=1)
    chunks = build_model(
        architecture,
        parallel=parallel,
        precision=precision,
        kind=DeviceKind.cpu,
        sequence_length=sequence_length,
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    yield wrap_for_forward(chunks, parallel=parallel, precision=precision, device=runtime.device)
    parallel_state.destroy_model_parallel()
