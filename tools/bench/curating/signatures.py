# SPDX-License-Identifier: Apache-2.0
"""Memory of finding near duplicates among many documents, of which there are only signatures.

    python tools/bench/curating/signatures.py
    python tools/bench/curating/signatures.py --documents 100000000 --memory-mib 102

Signatures are drawn at random, and a document in twenty has the bands and shingles of the one
before it. All else is what `megacpt deduplicate` does. The share of memory to documents is that of
a billion documents and a GiB: keys are dealt to as many files, which are as large for their memory.
"Own" is memory that only this process can give back; mapped files are the system's to take.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np

from megacpt.curate.deduplicate.alike import NEAR, Near, State
from megacpt.curate.deduplicate.settings import Keep
from megacpt.curate.deduplicate.sketches import HELDOUT_BITS, Sketches

PIECE = 1 << 18
EVERY = 20
POLL_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("build/bench-signatures"))
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--memory-mib", type=float, default=10.24)
    parser.add_argument("--bands", type=int, default=4, help="each takes the same memory again")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    sketches = write(arguments.folder, documents=arguments.documents, bands=arguments.bands)
    state = State.begin(arguments.folder, num_documents=arguments.documents)
    near = Near(
        sketches=sketches,
        state=state,
        folder=arguments.folder / "near",
        bands=arguments.bands,
        threshold=0.8,
        memory_bytes=int(arguments.memory_mib * 2**20),
    )
    peaks, before_mib = {"RssAnon": 0.0, "VmRSS": 0.0}, memory_mib()["RssAnon"]
    done = threading.Event()
    threading.Thread(target=watch, args=(peaks, done), daemon=True).start()
    started_at = time.perf_counter()
    near.drop()
    seconds = time.perf_counter() - started_at
    done.set()
    gone = sum(int((state.rules[n : n + PIECE] == NEAR).sum()) for n in starts(len(state.rules)))
    shutil.rmtree(arguments.folder)
    print(
        f"{arguments.documents:,} documents, {gone:,} near duplicates, {seconds:.0f} s; at most "
        f"{peaks['RssAnon'] - before_mib:.0f} MiB of its own over {before_mib:.0f} before, of "
        f"{arguments.memory_mib:.0f} allowed; {peaks['VmRSS']:.0f} MiB with mapped files"
    )
    return 0


def starts(documents: int) -> range:
    return range(0, documents, PIECE)


def write(folder: Path, *, documents: int, bands: int) -> Sketches:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(17)
    records = []
    for number, first in enumerate(starts(documents)):
        count = min(PIECE, documents - first)
        values = draw.integers(0, 1 << 64, (count, bands), np.uint64)
        shingles = draw.integers(0, 1 << 32, count, np.uint32)
        for array in (values, shingles):
            array[EVERY::EVERY] = array[EVERY - 1 : -1 : EVERY][: len(array[EVERY::EVERY])]
        priorities = draw.integers(1 << HELDOUT_BITS, 1 << 64, count, np.uint64)
        stem = folder / f"{number:05}"
        values.tofile(stem.with_suffix(".bands"))
        shingles.tofile(stem.with_suffix(".shingles"))
        priorities.tofile(stem.with_suffix(".priority"))
        np.arange(1, count + 1, dtype=np.int64).tofile(stem.with_suffix(".ends"))
        records.append({"documents": count, "as_written": True})
    return Sketches(folder, records=records, keep=Keep.longest)


def memory_mib() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 2**10 for name in ("RssAnon", "VmRSS")}


def watch(peaks: dict[str, float], done: threading.Event) -> None:
    while not done.wait(POLL_S):
        for name, found in memory_mib().items():
            peaks[name] = max(peaks[name], found)


if __name__ == "__main__":
    sys.exit(main())
