# SPDX-License-Identifier: Apache-2.0
"""megatron-core's column- and row-parallel layers with another product in place of theirs.

megatron-core's own product passes its input between ranks, as its layers do not. Here that comes
first, so that a product sees each token that it gives a result for, and autograd the gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)


class OwnProduct(torch.nn.Module, ABC):
    """What is laid over megatron-core's class: all but the product stays as it is there."""

    @abstractmethod
    def own_product(self, x: torch.Tensor, *, weight: Any) -> torch.Tensor:
        """Of the layer's weight, without the bias."""

    def _forward_impl(
        self,
        *,
        input: torch.Tensor,
        weight: Any,
        bias: torch.Tensor | None,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: Any,
        **_: Any,
    ) -> torch.Tensor:
        """With the arguments that megatron-core's layers give their product."""
        x = input
        if sequence_parallel:
            x = gather_from_sequence_parallel_region(x, group=tp_group)
        elif allreduce_dgrad:
            x = copy_to_tensor_model_parallel_region(x, group=tp_group)
        y = self.own_product(x, weight=weight)
        return y if bias is None else y + bias
