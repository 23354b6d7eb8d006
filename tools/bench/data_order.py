# SPDX-License-Identifier: Apache-2.0
"""Time and memory to the first batch, and random access: megatron-core's datasets and megacpt's.

    python tools/bench/data_order.py start          # 50 M documents in 100 sources, 40 B tokens
    python tools/bench/data_order.py start-1t       # 1 T tokens in 1,000 sources, megacpt alone
    python tools/bench/data_order.py access         # one sample of 4,096 tokens, warm

Token files are sparse; the index files of ``start`` are real, since megatron-core reads all of
them, those of ``start-1t`` are sparse too. Every measurement is a process of its own, in turns;
shown is the median of --runs. Seconds count from the first call of the data code to the first
batch, imports apart; memory is the peak of the whole process, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from megacpt.shards.format import HEADER, MAGIC, TYPE_CODES, VERSION, code_of

LENGTH = 4096
BATCH = 128
MIB = 2**20
UINT16 = TYPE_CODES[8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("start", "start-1t", "access"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="where the files go for as long as it takes")
    parser.add_argument("--worker", choices=("peer", "megacpt", "both"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(WORKERS[arguments.what, arguments.worker](Path(arguments.folder))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        {"start": start, "start-1t": start_1t, "access": access}[arguments.what](
            Path(folder), arguments.runs
        )


def start(folder: Path, runs: int) -> None:
    for n in range(100):
        lengths = np.random.default_rng(n).integers(100, 1501, size=500_000, dtype=np.int32)
        write_shard(folder / f"s{n:03}", lengths)
    peer, ours = [], []
    for _ in range(runs):
        peer.append(measured("start", "peer", folder))
        ours.append(measured("start", "megacpt", folder))
    show("megatron-core", peer)
    show("megacpt", ours)
    for key in ("seconds", "peak_mib"):
        print(f"{key:9} megatron-core / megacpt = {median(peer, key) / median(ours, key):.1f}")


def start_1t(folder: Path, runs: int) -> None:
    for n in range(1000):
        write_sparse_shard(folder / f"s{n:03}", documents=1_250_000, tokens=1_000_000_000)
    show("megacpt", [measured("start-1t", "megacpt", folder) for _ in range(runs)])


def access(folder: Path, runs: int) -> None:
    lengths = np.random.default_rng(0).integers(100, 1501, size=50_000, dtype=np.int32)
    write_shard(folder / "s000", lengths)
    tokens = np.random.default_rng(0).integers(0, 49_152, size=lengths.sum(), dtype=UINT16)
    tokens.tofile(folder / "s000.bin")
    for result in (measured("access", "both", folder) for _ in range(runs)):
        peer, ours, masked = result["peer"], result["megacpt"], result["masked"]
        print(
            f"megatron-core {peer:.1f} us  megacpt {ours:.1f} us ({masked:.1f} masked)  ratio "
            f"{result['ratio']:.1f}, of rounds {result['lowest']:.1f} to {result['highest']:.1f}"
        )


def measured(what: str, worker: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, what, "--worker", worker]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--folder", str(folder)], env=variables, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def median(results: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(result[key] for result in results))


def show(name: str, results: list[dict[str, Any]]) -> None:
    print(
        f"{name:14} first batch after {median(results, 'seconds'):.3f} s "
        f"(imports before it {median(results, 'import_seconds'):.2f} s), "
        f"peak {median(results, 'peak_mib'):.0f} MiB "
        f"(imports {median(results, 'import_mib'):.0f} MiB), "
        f"files {results[-1]['files_mib']:.0f} MiB"
    )


def write_shard(prefix: Path, lengths: np.ndarray[Any, np.dtype[np.int32]]) -> None:
    """A whole index, and sparse tokens."""
    offsets = np.zeros(lengths.size, dtype="<i8")
    np.cumsum(lengths[:-1], dtype="<i8", out=offsets[1:])
    bounds = np.arange(lengths.size + 1, dtype="<i8")
    head = HEADER.pack(MAGIC, VERSION, code_of(UINT16), lengths.size, bounds.size)
    with Path(f"{prefix}.idx").open("wb") as stream:
        stream.write(head)
        for array in (lengths.astype("<i4"), offsets * UINT16.itemsize, bounds):
            array.tofile(stream)
    truncate(Path(f"{prefix}.bin"), int(lengths.sum()) * UINT16.itemsize)


def write_sparse_shard(prefix: Path, *, documents: int, tokens: int) -> None:
    """Only the ends of the index are there: what is read of it when a run starts."""
    truncate(Path(f"{prefix}.bin"), tokens * UINT16.itemsize)
    idx = Path(f"{prefix}.idx")
    truncate(idx, HEADER.size + 20 * documents + 8)
    content = np.memmap(idx, mode="r+")
    head = HEADER.pack(MAGIC, VERSION, code_of(UINT16), documents, documents + 1)
    content[: HEADER.size] = np.frombuffer(head, dtype=np.uint8)
    ends = HEADER.size + np.array([4, 12, 20]) * documents + np.array([0, 0, 8])
    last_length = tokens // documents
    last_offset = (tokens - last_length) * UINT16.itemsize
    content[ends[0] - 4 : ends[0]].view("<i4")[0] = last_length
    content[ends[1] - 8 : ends[1]].view("<i8")[0] = last_offset
    content[ends[2] - 8 : ends[2]].view("<i8")[0] = documents
    content.flush()


def truncate(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


def prefixes(folder: Path) -> list[str]:
    return [str(path.with_suffix("")) for path in sorted(folder.glob("s*.idx"))]


def weights(count: int) -> list[float]:
    """Not all alike, as in real blends."""
    return [1.0 + n % 7 for n in range(count)]


def megacpt_start(folder: Path) -> dict[str, Any]:
    imports_at, found = time.perf_counter(), prefixes(folder)
    from megacpt.config.sections import DataConfig, SourceConfig
    from megacpt.samples.training_data import TrainingData

    started_at, import_mib = time.perf_counter(), peak_mib()
    names = [f"source{n}" for n in range(len(found))]
    sources = {
        name: SourceConfig(prefix=prefix, weight=weight)
        for name, prefix, weight in zip(names, found, weights(len(found)), strict=True)
    }
    config = DataConfig(sources=sources, sequence_length=LENGTH, global_batch_size=BATCH)
    data = TrainingData.open(
        config, seed=1, shards=dict(zip(names, found, strict=True)), vocab_size=49_152
    )
    batch = data.load(0, positions=range(BATCH))
    assert batch.tokens_BS.shape == (BATCH, LENGTH)
    return {
        "seconds": time.perf_counter() - started_at,
        "import_seconds": started_at - imports_at,
        "peak_mib": peak_mib(),
        "import_mib": import_mib,
        "files_mib": 0,
    }


def peer_start(folder: Path) -> dict[str, Any]:
    imports_at, found = time.perf_counter(), prefixes(folder)
    import megatron.core.datasets.blended_megatron_dataset_builder  # noqa: F401

    started_at, import_mib = time.perf_counter(), peak_mib()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        tokens = sum(Path(f"{prefix}.bin").stat().st_size for prefix in found) // 2
        blend = (found, weights(len(found)))
        # Of one epoch with these weights no source is asked for more than it has.
        dataset = peer_dataset(blend, cache=cache, samples=tokens // LENGTH // 2)
        for n in range(BATCH):
            dataset[n]
        seconds = time.perf_counter() - started_at
        files = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    return {
        "seconds": seconds,
        "import_seconds": started_at - imports_at,
        "peak_mib": peak_mib(),
        "import_mib": import_mib,
        "files_mib": files / MIB,
    }


def access_both(folder: Path) -> dict[str, Any]:
    """Microseconds of CPU a sample: medians of 15 rounds of 1,000 samples in random order."""
    prefix = str(folder / "s000")
    samples = Path(f"{prefix}.bin").stat().st_size // 2 // LENGTH // BATCH * BATCH
    order = np.random.default_rng(0).integers(0, samples, size=1000).tolist()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        peer = peer_dataset(([prefix], None), cache=cache, samples=samples)
        plain, masked = (megacpt_data(prefix, document_mask=mask) for mask in (False, True))
        readers = {
            "peer": lambda n: peer[n],
            "megacpt": lambda n: plain.load(n // BATCH, positions=[n % BATCH]),
            "masked": lambda n: masked.load(n // BATCH, positions=[n % BATCH]),
        }
        rounds = [{k: timed(read, order) for k, read in readers.items()} for _ in range(16)][1:]
    ratios = sorted(each["peer"] / each["megacpt"] for each in rounds)
    medians = {name: median(rounds, name) for name in readers}
    return medians | {
        "ratio": statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
    }


def megacpt_data(prefix: str, *, document_mask: bool) -> Any:
    from megacpt.config.sections import DataConfig, SourceConfig
    from megacpt.samples.training_data import TrainingData

    config = DataConfig(
        sources={"s": SourceConfig(prefix=prefix)},
        sequence_length=LENGTH,
        global_batch_size=BATCH,
        document_mask=document_mask,
    )
    return TrainingData.open(config, seed=1, shards={"s": prefix}, vocab_size=49_152)


def timed(read: Any, order: list[int]) -> float:
    started_at = time.process_time()
    for n in order:
        read(n)
    return (time.process_time() - started_at) / len(order) * 1e6


def peer_dataset(blend: Any, *, cache: str, samples: int) -> Any:
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=LENGTH,
        blend=blend,
        split="100,0,0",
        path_to_cache=cache,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        tokenizer=Tokenizer(),
    )
    sizes = [samples, 0, 0]
    return BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]


class Tokenizer:
    """What megatron-core asks of one here."""

    eod, pad, vocab_size = 0, 49_151, 49_152

    @property
    def unique_identifiers(self) -> dict[str, str]:
        return {"class": "none"}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


WORKERS = {
    ("start", "peer"): peer_start,
    ("start", "megacpt"): megacpt_start,
    ("start-1t", "megacpt"): megacpt_start,
    ("access", "both"): access_both,
}

if __name__ == "__main__":
    main()
