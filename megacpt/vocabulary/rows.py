# SPDX-License-Identifier: Apache-2.0
"""First values for the rows of new tokens: sums of old rows, read a part of the table at a time.

``subtokens``: the mean of the rows of the old tokens of the same text. ``mean``: drawn from the
normal distribution that has the mean and the covariance of all rows (Hewitt,
https://nlp.stanford.edu/~johnhew/vocab-expansion.html): the mean, and beside it the sum of every
row's distance from it times a draw of its own, over the root of their number, which has that
covariance without anyone computing it.

Shapes: V rows of a table, H hidden, N new rows.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from megacpt.vocabulary.bpe import Ids

ROWS_AT_ONCE = 8192


class RowInit(enum.Enum):
    mean = "mean"
    subtokens = "subtokens"
    distil = "distil"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The embedding or the head as a file stores it."""

    name: str
    file: Path
    num_rows: int
    """Of these the first are the tokenizer's, and were trained."""


def first_rows(
    table: Table, *, parts: Sequence[Ids], num_trained: int, init: RowInit, seed: int
) -> torch.Tensor:
    """Rows_NH in the table's type, for tokens with these old ones."""
    read = _trained(table, num_trained=num_trained)
    if init is RowInit.mean:
        rows_NH = _drawn(read, count=len(parts), seed=seed)
    else:
        rows_NH = _averaged(read, parts=parts)
    with safe_open(str(table.file), framework="pt") as file:
        return rows_NH.to(file.get_slice(table.name)[:1].dtype)


Read = Callable[[], Iterator[tuple[int, torch.Tensor]]]


def _trained(table: Table, *, num_trained: int) -> Read:
    """Reads the trained rows in fp32, with the number of the first; as often as it is called."""

    def read() -> Iterator[tuple[int, torch.Tensor]]:
        with safe_open(str(table.file), framework="pt") as file:
            stored = file.get_slice(table.name)
            stop = min(num_trained, table.num_rows)
            for start in range(0, stop, ROWS_AT_ONCE):
                yield start, stored[start : min(start + ROWS_AT_ONCE, stop)].float()

    return read


def _averaged(read: Read, *, parts: Sequence[Ids]) -> torch.Tensor:
    owners = torch.tensor([n for n, ids in enumerate(parts) for _ in ids])
    numbers = torch.tensor([number for ids in parts for number in ids])
    sums_NH = torch.zeros(0)
    for start, rows_VH in read():
        if not len(sums_NH):
            sums_NH = torch.zeros(len(parts), rows_VH.shape[1])
        here = (numbers >= start) & (numbers < start + len(rows_VH))
        sums_NH.index_add_(0, owners[here], rows_VH[numbers[here] - start])
    return sums_NH / torch.tensor([len(ids) for ids in parts]).unsqueeze(1)


def _drawn(read: Read, *, count: int, seed: int) -> torch.Tensor:
    sums, counts = zip(*((rows.sum(dim=0), len(rows)) for _, rows in read()), strict=True)
    num_rows = sum(counts)
    mean_H = torch.stack(sums).sum(dim=0) / num_rows
    generator = torch.Generator().manual_seed(seed)
    sums_NH = torch.zeros(count, len(mean_H))
    for _, rows_VH in read():
        draws_NV = torch.randn(count, len(rows_VH), generator=generator)
        sums_NH += draws_NV @ (rows_VH - mean_H)
    drawn_NH: torch.Tensor = mean_H + sums_NH / math.sqrt(num_rows)
    return drawn_NH
