# SPDX-License-Identifier: Apache-2.0
"""What every kind of tokenizer has to do, and the form its ids come in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt


class EncodeError(Exception):
    """The library cannot encode one of the texts."""


Outcome: TypeAlias = "npt.NDArray[np.int32] | EncodeError"
"""What became of one text: its ids, or why it has none."""


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

    def without(self, row: npt.NDArray[np.integer]) -> Encoded:
        """All texts but those whose ids are ``row``."""
        alike = np.flatnonzero(np.diff(self.bounds) == row.size)
        starts = self.bounds[alike]
        gone = {n for n, at in zip(alike, starts, strict=True) if self._has(row, at=int(at))}
        if not gone:
            return self
        return join([ids for n, ids in enumerate(self.rows()) if n not in gone])

    def _has(self, row: npt.NDArray[np.integer], *, at: int) -> bool:
        return np.array_equal(self.ids[at : at + row.size], row)


class Encoder(Protocol):
    """A library that turns text into ids."""

    @property
    def name(self) -> str:
        """Name of the library and its version."""

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        """Ids of all texts; ``special`` adds what the tokenizer's own rule adds (BOS).

        EncodeError where the library gives up on one of them.
        """


class Backend(Encoder, Protocol):
    """An encoder that reads a kind of tokenizer file, and turns ids into text as well."""

    eos_remedy: str
    """What to do where it names no end of text."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""

    @property
    def identity(self) -> str:
        """Changes when the ids of some text do, however the file is written; "" if not known."""

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


@contextmanager
def failure_told(library: str) -> Iterator[None]:
    """EncodeError for whatever the library raises; its Rust part has exceptions of its own."""
    try:
        yield
    except Exception as error:
        raise EncodeError(f"{library}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # which no module exports
            raise
        raise EncodeError(f"{library}: {error}") from error


def encode_each(texts: Sequence[str], *, encoder: Encoder, special: bool) -> list[Outcome]:
    """Encode all texts that can be encoded."""
    try:
        return list(encoder.encode(texts, special=special).rows())
    except EncodeError as error:
        if len(texts) == 1:
            return [error]
    # Halves: where one of thousands fails, the others are still encoded together.
    middle = len(texts) // 2
    halves = (texts[:middle], texts[middle:])
    return [row for half in halves for row in encode_each(half, encoder=encoder, special=special)]


def join(rows: Sequence[npt.ArrayLike]) -> Encoded:
    """``Encoded`` of ids that are in a list or array for each text."""
    arrays = [np.asarray(row, dtype=np.int32) for row in rows]
    bounds = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([array.size for array in arrays], out=bounds[1:])
    return Encoded(ids=np.concatenate([np.zeros(0, dtype=np.int32), *arrays]), bounds=bounds)
