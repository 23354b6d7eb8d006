# SPDX-License-Identifier: Apache-2.0
"""What a rank multiplies with its part of a matrix: gathered, and its gradient reduced, as
megatron-core's own product of a column-parallel layer does inside."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)


def whole_input(
    x: torch.Tensor, *, allreduce_dgrad: bool, sequence_parallel: bool, tp_group: Any
) -> torch.Tensor:
    """``x`` with the arguments that megatron-core's layers give their product."""
    whole = x
    if sequence_parallel:
        whole = gather_from_sequence_parallel_region(x, group=tp_group)
    elif allreduce_dgrad:
        whole = copy_to_tensor_model_parallel_region(x, group=tp_group)
    return whole
