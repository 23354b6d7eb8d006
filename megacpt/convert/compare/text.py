# SPDX-License-Identifier: Apache-2.0
"""A comparison as people read it, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from megacpt.convert.compare.logits import LayerDifference
from megacpt.convert.compare.tensors import TensorPair

NAME_COLUMNS = 46
SHOWN = 20
"""Tensors that differ; the others are counted."""
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    None: "-",
}


def tensor_lines(pairs: Sequence[TensorPair], *, tolerance: float) -> Iterator[str]:
    """Those that differ, the furthest apart first, then what there is in all."""
    unlike = [pair for pair in pairs if not pair.equal]
    if unlike:
        yield f"{'tensor':<{NAME_COLUMNS}} {'types':>9} {'largest':>10} {'difference':>11}"
    for pair in sorted(unlike, key=_urgency)[:SHOWN]:
        yield _tensor_line(pair)
    if len(unlike) > SHOWN:
        yield f"... and {len(unlike) - SHOWN} more that differ less"
    equal = len(pairs) - len(unlike)
    beyond = sum(not pair.within(tolerance) for pair in pairs)
    yield (
        f"{len(pairs)} tensors: {equal} equal bit for bit, {len(unlike)} not, {beyond} of them "
        f"beyond {tolerance:g}"
    )


def layer_lines(layers: Sequence[LayerDifference]) -> Iterator[str]:
    columns = NAME_COLUMNS + 10
    yield f"{'what transformers computes':<{columns}} {'largest':>10} {'difference':>11}"
    for layer in layers:
        yield f"{layer.name:<{columns}} {layer.largest:>10.4g} {layer.difference:>11.3e}"


def _urgency(pair: TensorPair) -> tuple[bool, float, str]:
    not_a_number = pair.difference != pair.difference
    return (not not_a_number, -pair.difference, pair.name)


def _tensor_line(pair: TensorPair) -> str:
    name = pair.name
    if len(name) > NAME_COLUMNS:
        name = f"...{name[3 - NAME_COLUMNS :]}"
    first, second = pair.shapes
    if first is None or second is None:
        return f"{name:<{NAME_COLUMNS}} only in the {'second' if first is None else 'first'}"
    if first != second:
        return f"{name:<{NAME_COLUMNS}} {list(first)} and {list(second)}"
    ours, theirs = (_TYPES[dtype] for dtype in pair.dtypes)
    types = ours if ours == theirs else f"{ours} {theirs}"
    return f"{name:<{NAME_COLUMNS}} {types:>9} {pair.largest:>10.4g} {pair.difference:>11.3e}"
