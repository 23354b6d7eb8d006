# SPDX-License-Identifier: Apache-2.0
"""How fast near duplicates are found and left out, from JSONL to JSONL, beside other tools.

    python -m venv peers
    peers/bin/pip install licensedcode-data==32.1.0 gaoya==0.2.2 fastsketchlsh==1.0.1 \\
        rensa==0.5.0 dedup-rs==0.4.0 datasketch==2.0.0 datatrove==0.10.1 spacy nltk \\
        regex tokenizers "xxhash<4" orjson
    python tools/bench/curate.py --python peers/bin/python
    python tools/bench/curate.py --python peers/bin/python --documents 100000 --only ours gaoya

All tools take turns on the same files, every turn in a new process. The seconds are the clock's
from the first byte that is read to the last that is written; "step" is the near-duplicate step
alone, texts in memory; "start" is what Python and imports take; "busy" is how long its processes
compute, start included. The memory is that of all processes of a tool together. Figures are medians
of the rounds.

Truth is the exact Jaccard of shingles of five words (curating/truth.py), of more than 20,000
documents for a part of them. "found": of the pairs of 0.85 and above the share of which not both
are left. "right": of the documents that are left out the share that have a pair of 0.8 or above
with one that is kept.

"exact" leaves out documents of the same words alone. Beside it, on one core: "bytes" reads files
and takes the XXH3 of each line; "texts" parses them, takes the XXH3 of each text, and writes those
that were not there before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import psutil
from curating.corpus import write_corpus
from curating.truth import Truth, truth_of

PEERS = ("gaoya", "fastsketch", "rensa", "dedup-rs", "datasketch", "datatrove")
SLOW = {"dedup-rs": 1, "datasketch": 1, "datatrove": 1}
"""Rounds of tools that take minutes."""
THRESHOLD, SURELY = 0.8, 0.85
OURS = """
import json, sys, time
from megacpt.curate.config import read_config
from megacpt.curate.pipeline import curate
threads, output, *inputs = sys.argv[1:]
started_at = time.perf_counter()
curate(read_config(None, overrides=[
    f"output={output}", f"sources.text.files={','.join(inputs)}", "form=jsonl",
    f"workers={threads}", DEDUPLICATE,
]))
whole_s = time.perf_counter() - started_at
print(json.dumps({"whole_s": whole_s, "near_s": whole_s}))
"""
FLOOR = """
import json, os, sys, time
import orjson, xxhash
parses = PARSES
threads, output, *inputs = sys.argv[1:]
started_at = time.perf_counter()
seen, kept = set(), []
for path in inputs:
    for line in open(path, "rb").read().split(b"\\n"):
        if not parses:
            xxhash.xxh3_128_digest(line)
        elif line:
            words = xxhash.xxh3_128_digest(orjson.loads(line)["text"].encode())
            if words not in seen:
                seen.add(words)
                kept.append(line)
os.mkdir(output)
with open(output + "/0.jsonl", "wb") as stream:
    stream.write(b"\\n".join(kept))
    stream.flush()
    os.fsync(stream.fileno())
whole_s = time.perf_counter() - started_at
print(json.dumps({"whole_s": whole_s, "near_s": whole_s}))
"""
OWN = {
    "ours": OURS.replace("DEDUPLICATE", '"deduplicate.near.threshold=0.8"'),
    "exact": OURS.replace("DEDUPLICATE", '"deduplicate.near=null", "deduplicate.exact=true"'),
    "bytes": FLOOR.replace("PARSES", "False"),
    "texts": FLOOR.replace("PARSES", "True"),
}
"""Run by this Python."""
POLL_S = 0.02


@dataclass(kw_only=True)
class Contender:
    name: str
    command: Sequence[str]
    """Takes the number of threads, a folder to write and the files to read."""
    rounds: int
    whole_s: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    near_s: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0


def main() -> int:
    arguments = parsed()
    folder = arguments.folder / str(arguments.documents)
    paths = write_corpus(
        folder, texts=package_data(arguments.python), documents=arguments.documents
    )
    lines = [line for path in paths for line in path.read_bytes().splitlines()]
    texts = [orjson.loads(line)["text"] for line in lines]
    num_bytes = sum(path.stat().st_size for path in paths)
    print(f"{len(texts):,} documents of {num_bytes / len(texts):.0f} bytes")
    truth = truth_of(texts, threshold=THRESHOLD, cache=folder / "truth.npz")
    surely = len(truth.at_least(SURELY))
    print(f"{len(truth.pairs):,} pairs of Jaccard {THRESHOLD} or above, {surely:,} of {SURELY}")
    ids = [orjson.loads(line)["id"] for line in lines]
    contenders = [contender(name, arguments=arguments) for name in arguments.only]
    outputs = race(contenders, folder=folder, paths=paths, threads=arguments.threads)
    print_table(contenders, num_documents=len(texts), num_bytes=num_bytes)
    for entry in contenders:
        print(f"{entry.name:12}{quality(outputs[entry.name], ids=ids, truth=truth)}")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, required=True, help="of the peers' environment")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-curate"))
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--only", nargs="*", default=["ours", *PEERS], choices=[*OWN, *PEERS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def package_data(python: Path) -> Path:
    """Of licensedcode-data, which has nothing to import."""
    (found,) = python.parent.parent.glob("lib/python*/site-packages/licensedcode/data")
    return found


def contender(name: str, *, arguments: argparse.Namespace) -> Contender:
    script = Path(__file__).parent / "curating" / "peers.py"
    peer = [str(arguments.python), str(script), name]
    return Contender(
        name=name,
        command=[sys.executable, "-c", OWN[name]] if name in OWN else peer,
        rounds=min(arguments.rounds, SLOW.get(name, arguments.rounds)),
    )


def race(
    contenders: Sequence[Contender], *, folder: Path, paths: Sequence[Path], threads: int
) -> Mapping[str, Path]:
    """By turns; the folders that the last round has written."""
    outputs = {entry.name: folder / f"output-{entry.name}" for entry in contenders}
    for number in range(max(entry.rounds for entry in contenders)):
        for entry in contenders:
            if number < entry.rounds:
                shutil.rmtree(outputs[entry.name], ignore_errors=True)
                take_turn(entry, words=[str(threads), str(outputs[entry.name]), *map(str, paths)])
        seconds = "  ".join(f"{e.name} {e.whole_s[-1]:.2f} s" for e in contenders)
        print(f"round {number + 1}  {seconds}", file=sys.stderr, flush=True)
    return outputs


def take_turn(entry: Contender, *, words: Sequence[str]) -> None:
    started_at, busy_before_s = time.perf_counter(), children_s()
    process = subprocess.Popen(
        [*entry.command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peaks: list[int] = [0]
    watcher = threading.Thread(target=watch, args=(process.pid, peaks))
    watcher.start()
    out, errors = process.communicate()
    process_s = time.perf_counter() - started_at
    watcher.join()
    if process.returncode:
        sys.exit(f"{entry.name} has failed:\n{errors}")
    times = json.loads(out.splitlines()[-1])
    entry.whole_s.append(times["whole_s"])
    entry.near_s.append(times["near_s"])
    entry.start_s.append(process_s - times["whole_s"])
    entry.busy_s.append(children_s() - busy_before_s)
    entry.peak_bytes = max(entry.peak_bytes, *peaks)


def children_s() -> float:
    """Seconds that processes which have ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(pid: int, peaks: list[int]) -> None:
    """The most memory that a process and its children have had."""
    while (found := resident_bytes(pid)) is not None:
        peaks.append(found)
        time.sleep(POLL_S)


def resident_bytes(pid: int) -> int | None:
    try:
        first = psutil.Process(pid)
        if first.status() == psutil.STATUS_ZOMBIE:
            return None
        return sum(int(p.memory_info().rss) for p in [first, *first.children(recursive=True)])
    except psutil.NoSuchProcess:
        return None


def print_table(contenders: Sequence[Contender], *, num_documents: int, num_bytes: int) -> None:
    print(
        f"{'':12}{'seconds':>9}{'documents/s':>13}{'MB/s':>8}{'step':>8}{'start':>8}{'busy':>8}{'MiB':>8}"
    )
    for entry in contenders:
        seconds = statistics.median(entry.whole_s)
        print(
            f"{entry.name:12}{seconds:9.2f}{num_documents / seconds:13,.0f}"
            f"{num_bytes / seconds / 1e6:8.1f}{statistics.median(entry.near_s):8.2f}"
            f"{statistics.median(entry.start_s):8.2f}{statistics.median(entry.busy_s):8.2f}"
            f"{entry.peak_bytes / 2**20:8.0f}"
        )


def quality(output: Path, *, ids: Sequence[str], truth: Truth) -> str:
    left = set(kept_ids(output))
    kept = np.array([number in left for number in ids])
    surely = truth.at_least(SURELY)
    found = 1 - kept[surely].all(axis=1).mean()
    has_kept = np.zeros(len(ids), bool)
    for one, other in ((0, 1), (1, 0)):
        has_kept[truth.pairs[kept[truth.pairs[:, other]], one]] = True
    judged = ~kept & truth.looked_at
    right = has_kept[judged].mean() if judged.any() else 1.0
    return f"found {found:.4f}   right {right:.4f}   {kept.sum():,} of {len(ids):,} are left"


def kept_ids(output: Path) -> Iterator[str]:
    for path in output.rglob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            yield orjson.loads(line)["id"]


if __name__ == "__main__":
    sys.exit(main())
