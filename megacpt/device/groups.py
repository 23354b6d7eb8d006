# SPDX-License-Identifier: Apache-2.0
"""Deal the ranks to every kind of parallelism, before any model is built."""

from __future__ import annotations

from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from megacpt.config.sections import ParallelConfig


def initialise_parallel(parallel: ParallelConfig, *, seed: int) -> None:
    """Create megatron-core's process groups and seed its generators."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tp,
        pipeline_model_parallel_size=parallel.pp,
        virtual_pipeline_model_parallel_size=parallel.vpp if parallel.vpp > 1 else None,
        context_parallel_size=parallel.cp,
        expert_model_parallel_size=parallel.ep,
        expert_tensor_parallel_size=parallel.etp,
    )
    model_parallel_cuda_manual_seed(seed)
