# SPDX-License-Identifier: Apache-2.0
"""Which layers each pipeline rank gets: even shares, or a first and last of their own size."""

from __future__ import annotations

from itertools import accumulate

from megacpt.config.sections import ParallelConfig


def stage_layers(num_layers: int, *, parallel: ParallelConfig) -> tuple[int, ...]:
    """One number a pipeline rank, all its virtual stages together; empty where no deal exists."""
    first, last, pp = parallel.first_stage_layers, parallel.last_stage_layers, parallel.pp
    if pp < 1 or parallel.vpp < 1 or (pp == 1 and (first, last) != (None, None)):
        return ()
    middle = pp - (first is not None) - (last is not None)
    rest = num_layers - (first or 0) - (last or 0)
    if (rest != 0) if middle == 0 else (rest < middle or rest % middle != 0):
        return ()
    share = rest // middle if middle else 0
    stages = [share] * pp
    if first is not None:
        stages[0] = first
    if last is not None:
        stages[-1] = last
    is_dealt = all(layers >= 1 and layers % parallel.vpp == 0 for layers in stages)
    return tuple(stages) if is_dealt else ()


def virtual_stages(num_layers: int, *, parallel: ParallelConfig) -> tuple[range, ...]:
    """The layers of each, from 0, in model order; empty where no deal exists."""
    dealt = [layers // parallel.vpp for layers in stage_layers(num_layers, parallel=parallel)]
    sizes = dealt * parallel.vpp
    ends = accumulate(sizes)
    return tuple(range(end - size, end) for end, size in zip(ends, sizes, strict=True))


def layers_of_rank(num_layers: int, *, parallel: ParallelConfig, rank: int) -> tuple[int, ...]:
    """Their numbers, from 0; virtual stages are dealt in turn to the ranks."""
    own = virtual_stages(num_layers, parallel=parallel)[rank :: parallel.pp]
    return tuple(layer for stage in own for layer in stage)
