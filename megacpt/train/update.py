# SPDX-License-Identifier: Apache-2.0
"""The optimizer's step, with a last word between the gradient norm and the update.

megatron-core leaves the update out where ``prepare_grads`` says that a gradient is not finite
(its fp16 loss scaling works so): weights, moments and step counts then stay as they are, in every
optimizer and however its state is cut. Here the same answer is given for what ``accept`` refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def step_if(optimizer: Any, *, accept: Callable[[float], bool]) -> float:
    """Take the step unless ``accept`` refuses the global gradient norm, which is returned.

    The norm is measured before it is clipped, and only once: megatron-core's step is handed the
    value that was judged.
    """
    prepare_grads, get_grad_norm = optimizer.prepare_grads, optimizer.get_grad_norm
    norms: list[Any] = []

    def prepare_and_judge() -> bool:
        has_nonfinite = bool(prepare_grads())
        norms.append(get_grad_norm())
        return has_nonfinite or not accept(float(norms[0]))

    optimizer.prepare_grads = prepare_and_judge
    optimizer.get_grad_norm = lambda: norms[0]
    try:
        optimizer.step()
    finally:
        del optimizer.prepare_grads, optimizer.get_grad_norm
    return float(norms[0])
