# SPDX-License-Identifier: Apache-2.0
"""Python's garbage collector, kept from stopping one rank while all others wait for it.

Left alone, it walks through every object of torch, megatron-core and transformers whenever enough
new ones were made: a pause of a tenth of a second and more, on each rank at another step, and
each delays them all. Here all ranks collect after the same steps, and never look again at what
was there before the first one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def collecting_every(steps: int) -> Iterator[Callable[[int], None]]:
    """Call what it yields after each optimizer step; ``steps=0`` leaves Python alone."""
    if steps == 0 or not gc.isenabled():
        yield lambda _step: None
        return
    gc.collect()
    gc.freeze()
    gc.disable()

    def after(step: int) -> None:
        if step % steps == 0:
            gc.collect()

    try:
        yield after
    finally:
        gc.enable()
        gc.unfreeze()
