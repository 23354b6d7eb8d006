# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

UNICODE_VERSION: str

class Permutation:
    def __init__(self, size: int, *, key: int) -> None: ...
    def __call__(self, index: int) -> int: ...

class MappedFile:
    def __init__(self, path: str, *, scattered: bool = False) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class TokenStream:
    def __init__(
        self,
        tokens: npt.NDArray[np.integer[Any]],
        *,
        offsets: npt.NDArray[np.int64],
        bounds: npt.NDArray[np.int64],
        id_limit: int,
    ) -> None: ...

def fill_batch(
    rows: Sequence[tuple[Any, int, npt.ArrayLike, npt.ArrayLike, bool]],
    *,
    sequence_length: int,
    document_mask: bool,
) -> (
    int
    | tuple[
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.float32],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        tuple[npt.NDArray[np.int32], ...],
    ]
): ...
def end_documents(
    ids: npt.NDArray[np.uint32],
    bounds: npt.NDArray[np.int64],
    *,
    eos_id: int | None,
    vocab_size: int,
    dtype: np.dtype[Any],
) -> int | tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int32]]: ...
def permute(indices: npt.NDArray[np.int64], *, size: int, key: int) -> npt.NDArray[np.int64]: ...
def advance_blend(
    remainders: Sequence[int], *, denominator: int, lags: Sequence[int], num_steps: int
) -> tuple[list[int], list[int]]: ...
def megatron_indices(
    lengths: npt.NDArray[np.int32],
    *,
    seed: int,
    sequence_length: int,
    num_epochs: int,
    separate_last_epoch: bool,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.uint32]]: ...
def megatron_blend(
    weights: Sequence[float], *, num_samples: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]: ...
def best_fit(
    offsets: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.int64],
    *,
    item_bytes: int,
    num_tokens: int,
    sequence_length: int,
) -> tuple[
    npt.NDArray[np.int64],
    npt.NDArray[np.uint64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int32],
    int,
    int,
]: ...

class Sketches:
    @property
    def normalised(self) -> npt.NDArray[np.uint8]: ...
    @property
    def text_offsets(self) -> npt.NDArray[np.int64]: ...
    @property
    def num_words(self) -> npt.NDArray[np.int32]: ...
    @property
    def shingles(self) -> npt.NDArray[np.uint32]: ...
    @property
    def shingle_offsets(self) -> npt.NDArray[np.int64]: ...
    @property
    def bands(self) -> npt.NDArray[np.uint64]: ...
    @property
    def hashes(self) -> npt.NDArray[np.uint64]: ...

class Sketcher:
    def __init__(
        self,
        *,
        words: int = 5,
        bands: int = 0,
        rows: int = 0,
        seed: int = 0,
        vector_bits: int = 512,
    ) -> None: ...
    def sketch(
        self,
        texts: list[str],
        *,
        normalised: bool = True,
        shingles: bool = True,
        hashes: bool = False,
    ) -> Sketches: ...

def similarities(
    shingles: npt.NDArray[np.uint32],
    *,
    offsets: npt.NDArray[np.int64],
    pairs: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]: ...

class Hits:
    @property
    def documents(self) -> npt.NDArray[np.int64]: ...
    @property
    def words(self) -> npt.NDArray[np.int64]: ...
    @property
    def windows(self) -> npt.NDArray[np.int64]: ...
    @property
    def starts(self) -> npt.NDArray[np.int64]: ...
    @property
    def stops(self) -> npt.NDArray[np.int64]: ...

class NgramIndex:
    def __init__(self, texts: list[str], *, windows: npt.NDArray[np.int64]) -> None: ...
    @property
    def first_equal(self) -> npt.NDArray[np.int64]: ...
    def find(self, texts: list[str]) -> Hits: ...

class PackedRows:
    def __init__(
        self,
        row_ends: npt.NDArray[np.int64],
        checksums: npt.NDArray[np.uint64],
        starts: npt.NDArray[np.int64],
        inputs: npt.NDArray[np.int32],
    ) -> None: ...
    def row(
        self, row: int, *, sequence_length: int, num_tokens: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...

class ShingleFiles:
    def __init__(
        self,
        paths: Sequence[str],
        *,
        ends: Sequence[npt.NDArray[np.int64]],
        firsts: Sequence[int],
    ) -> None: ...
    @property
    def num_compared(self) -> int:
        """Without those that were known."""
    def similarity(self, first: int, second: int) -> float: ...
    def drop_alike(
        self,
        members: npt.NDArray[np.int64],
        *,
        priorities: npt.NDArray[np.uint64],
        ends: npt.NDArray[np.int64],
        threshold: float,
        rule: int,
        rules: npt.NDArray[np.uint8],
        like: npt.NDArray[np.int64],
    ) -> None: ...
    def join_alike(
        self,
        members: npt.NDArray[np.int64],
        *,
        priorities: npt.NDArray[np.uint64],
        ends: npt.NDArray[np.int64],
        threshold: float,
        rules: npt.NDArray[np.uint8],
        parents: npt.NDArray[np.int64],
    ) -> None: ...
