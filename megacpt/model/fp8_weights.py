# SPDX-License-Identifier: Apache-2.0
"""Weights that are kept in fp8 (``precision.fp8_param_gather``) are filled like any others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core.fp8_utils import is_float8tensor


@contextmanager
def writable(parameter: torch.nn.Parameter) -> Iterator[torch.Tensor]:
    """A plain tensor to write the weight into.

    An fp8 weight is a pair of numbers and scales, of which no part can be written. It is quantised
    from a bf16 tensor when that is whole. The optimizer takes its master weight from the same
    tensor, which Transformer Engine keeps until then: from fp8 it would have lost the base model's
    last bits.
    """
    if not is_float8tensor(parameter):
        yield parameter.data
        return
    wide = torch.empty(parameter.shape, dtype=torch.bfloat16, device=parameter.device)
    yield wide
    with torch.no_grad():
        parameter.copy_(wide)
    parameter._high_precision_init_val = wide.cpu()  # type: ignore[attr-defined]
