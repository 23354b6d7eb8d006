# SPDX-License-Identifier: Apache-2.0
"""What every kind of tokenizer has to do, and the form its ids come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Ids of several texts laid end to end; text n is ``ids[bounds[n] : bounds[n + 1]]``."""

    ids: npt.NDArray[np.integer]
    bounds: npt.NDArray[np.int64]

    def texts(self, start: int, *, stop: int) -> Encoded:
        """Texts ``start .. stop-1``, without copying ids."""
        bounds = self.bounds[start : stop + 1]
        return Encoded(ids=self.ids[bounds[0] : bounds[-1]], bounds=bounds - bounds[0])

    def rows(self) -> list[npt.NDArray[np.int32]]:
        ids = self.ids.astype(np.int32, copy=False)
        return [ids[a:b] for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]


class Encoder(Protocol):
    """A library that turns text into ids."""

    @property
    def name(self) -> str:
        """Name of the library and its version."""

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        """Ids of all texts; ``special`` adds what the tokenizer's own rule adds (BOS)."""


class Backend(Encoder, Protocol):
    """An encoder that reads a kind of tokenizer file, and turns ids into text as well."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""

    def knows(self, number: int) -> bool:
        """Whether this id, of any size and sign, stands for a token."""

    def decode(self, ids: list[int]) -> str:
        """The text of ids that it knows, special tokens shown."""


def decode(ids: Sequence[int], *, backend: Backend) -> str:
    """The text of any ids; one that stands for no token is shown as ``<invalid id 7>``."""
    return "".join(
        backend.decode(list(run)) if known else "".join(f"<invalid id {n}>" for n in run)
        for known, run in groupby(ids, key=backend.knows)
    )


def join(rows: Sequence[npt.ArrayLike]) -> Encoded:
    """``Encoded`` of ids that are in a list or array for each text."""
    arrays = [np.asarray(row, dtype=np.int32) for row in rows]
    bounds = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([array.size for array in arrays], out=bounds[1:])
    return Encoded(ids=np.concatenate([np.zeros(0, dtype=np.int32), *arrays]), bounds=bounds)
