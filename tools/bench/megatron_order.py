# SPDX-License-Identifier: Apache-2.0
"""How long ``order: megatron`` takes to build its indices, beside megatron-core itself.

    python tools/bench/megatron_order.py --documents 20000000

Both start from the same .idx file and end with document, sample and shuffle index in memory;
megatron-core is kept from writing its cache. All arrays are compared. The blend is timed apart.
Each figure is the best of its runs, in turns.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from megacpt import _C
from megacpt.device.cpu import import_hook
from megacpt.samples.megatron_order import SourceOrder
from megacpt.shards.format import HEADER, MAGIC, VERSION
from megacpt.shards.reader import IndexedShard

SEED, SEQUENCE_LENGTH, UINT16 = 1234, 4096, 8
Arrays = Sequence[npt.NDArray[Any]]
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20_000_000)
    parser.add_argument("--samples", type=int, default=2_000_000, help="of the blend")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import_hook.install()
    print(f"megatron-core {importlib.import_module('megatron.core').__version__}")
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "shard"
        write_index(prefix, num_documents=arguments.documents)
        for epochs in (0.99, 2.5):
            compare_indices(prefix, epochs=epochs, runs=arguments.runs)
    for num_sources in (3, 20, 100, 1000):
        num_samples = min(arguments.samples, 200_000_000 // num_sources)
        compare_blends(num_sources, num_samples=num_samples, runs=arguments.runs)


def write_index(prefix: Path, *, num_documents: int) -> None:
    """A .idx of documents as web texts have them, and a .bin that is a hole."""
    lengths = np.random.default_rng(0).lognormal(6, 1.2, num_documents).clip(1, 200_000)
    lengths = lengths.astype("<i4")
    ends = np.cumsum(lengths, dtype="<i8") * 2
    with Path(f"{prefix}.idx").open("wb") as idx:
        idx.write(HEADER.pack(MAGIC, VERSION, UINT16, num_documents, num_documents + 1))
        for array in (lengths, np.append(0, ends[:-1]), np.arange(num_documents + 1)):
            idx.write(array.data)
    with Path(f"{prefix}.bin").open("wb") as stream:
        stream.truncate(int(ends[-1]))


def compare_indices(prefix: Path, *, epochs: float, runs: int) -> None:
    num_samples = int(epochs * IndexedShard(prefix).num_tokens) // SEQUENCE_LENGTH
    compare(
        f"{epochs} epochs, {num_samples:,} samples of {SEQUENCE_LENGTH}",
        lambda: their_indices(prefix, num_samples=num_samples),
        lambda: our_indices(prefix, num_samples=num_samples),
        runs=runs,
    )


def their_indices(prefix: Path, *, num_samples: int) -> Arrays:
    """``mock`` names where a dataset comes from; here it only turns the cache off."""
    core = "megatron.core.datasets"
    gpt = importlib.import_module(f"{core}.gpt_dataset")
    low_level = importlib.import_module(f"{core}.indexed_dataset").IndexedDataset(str(prefix))
    split = importlib.import_module(f"{core}.utils").Split.train
    config = gpt.GPTDatasetConfig(
        random_seed=SEED,
        sequence_length=SEQUENCE_LENGTH,
        tokenizer=SimpleNamespace(vocab_size=50_000, pad=-1, eod=0, eos=0, unique_identifiers={}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
    )
    indices = np.arange(len(low_level), dtype=np.int32)
    dataset = gpt.GPTDataset(low_level, str(prefix), indices, num_samples, split, config)
    return dataset.document_index, dataset.sample_index, dataset.shuffle_index


def our_indices(prefix: Path, *, num_samples: int) -> Arrays:
    order = SourceOrder.build(
        IndexedShard(prefix),
        source_id=0,
        num_samples=num_samples,
        sequence_length=SEQUENCE_LENGTH,
        seed=SEED,
    )
    return order.document_index, order.sample_index, order.shuffle_index


def compare_blends(num_sources: int, *, num_samples: int, runs: int) -> None:
    weights = np.random.default_rng(num_sources).random(num_sources)
    weights = weights / weights.sum()
    compare(
        f"blend of {num_sources} sources, {num_samples:,} samples",
        lambda: their_blend(weights, num_samples=num_samples),
        lambda: _C.megatron_blend(weights.tolist(), num_samples=num_samples),
        runs=runs,
    )


def their_blend(weights: npt.NDArray[np.float64], *, num_samples: int) -> Arrays:
    helpers = importlib.import_module("megatron.core.datasets.helpers")
    arrays = np.zeros(num_samples, dtype=np.int16), np.zeros(num_samples, dtype=np.int64)
    helpers.build_blending_indices(*arrays, weights, weights.size, num_samples, False)
    return arrays


def compare(
    what: str, theirs: Callable[[], Arrays], ours: Callable[[], Arrays], *, runs: int
) -> None:
    their_s, our_s = [], []
    for _ in range(runs):
        expected, elapsed_s = timed(theirs)
        their_s.append(elapsed_s)
        found, elapsed_s = timed(ours)
        our_s.append(elapsed_s)
        for one, other in zip(found, expected, strict=True):
            if one.dtype != other.dtype or not np.array_equal(one, other):
                raise SystemExit(f"{what}: the arrays differ")
    ratio = min(their_s) / min(our_s)
    print(f"{what}: megatron-core {min(their_s):.3f} s, ours {min(our_s):.3f} s, {ratio:.1f}x")


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    started_at = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started_at


if __name__ == "__main__":
    main()
