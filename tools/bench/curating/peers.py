# SPDX-License-Identifier: Apache-2.0
"""Other tools, each as a process of its own: JSONL in, without near duplicates out.

    PYTHON peers.py TOOL THREADS OUTPUT INPUT...

Prints the seconds of the whole, without the start of Python and imports, and of the near-duplicate
step alone. Each does what its documentation shows, in the fastest way that it offers, with 14 bands
of 8 rows (FastSketchLSH: 16): of pairs of Jaccard 0.85 these find 98.8 %. A document is left out if
one that is kept is like it (datatrove and dedup-rs keep one of all that hang together).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

WORDS, BANDS, ROWS, THRESHOLD = 5, 14, 8, 0.8
SLACK = 0.05
"""Where all that a tool has is an estimate, it must not be below the threshold by more."""


def gaoya(texts: Sequence[str], threads: int) -> list[int]:
    index = import_module("gaoya.minhash").MinHashStringIndex(
        hash_size=32,
        jaccard_threshold=THRESHOLD - SLACK,
        num_bands=BANDS,
        band_size=ROWS,
        analyzer="word",
        lowercase=True,
        ngram_range=(WORDS, WORDS),
        id_container="smallvec",
    )
    index.par_bulk_insert_docs(list(range(len(texts))), list(texts))
    return kept_of(index.par_bulk_query(list(texts)))


def kept_of(alike: Iterable[Iterable[int]]) -> list[int]:
    """Of documents in order, those without an earlier one among those that are kept."""
    left_out: set[int] = set()
    kept = []
    for number, others in enumerate(alike):
        if any(other < number and other not in left_out for other in others):
            left_out.add(number)
        else:
            kept.append(number)
    return kept


def shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[n : n + WORDS]) for n in range(max(1, len(words) - WORDS + 1))]


def rensa(texts: Sequence[str], threads: int) -> list[int]:
    found = import_module("rensa").RMinHashDeduplicator(
        threshold=THRESHOLD - SLACK, num_perm=BANDS * ROWS, use_lsh=True, num_bands=BANDS
    )
    flags = found.add_pairs((str(n), shingles(text)) for n, text in enumerate(texts))
    return [number for number, is_new in enumerate(flags) if is_new]


def datasketch(texts: Sequence[str], threads: int) -> list[int]:
    module = import_module("datasketch")
    tokens = ([token.encode() for token in shingles(text)] for text in texts)
    sketches = list(module.MinHash.generator(tokens, num_perm=BANDS * ROWS))
    index = module.MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    with index.insertion_session() as session:
        for number, sketch in enumerate(sketches):
            session.insert(number, sketch, check_duplication=False)
    limit = THRESHOLD - SLACK
    return kept_of(
        [o for o in index.query(s) if o < n and s.jaccard(sketches[o]) >= limit]
        for n, s in enumerate(sketches)
    )


def dedup_rs(texts: Sequence[str], threads: int) -> list[int]:
    numpy = import_module("numpy")
    embed = import_module("dedup_rs").EmbedFunc.from_b_r(
        BANDS, ROWS, WORDS, BANDS * ROWS, "text", "index", None, WORDS
    )
    numbers = numpy.arange(len(texts), dtype=numpy.uint32)
    embed.batch_embed_shard(list(texts), numbers)
    return sorted(embed.filter_duplicates(embed.cluster(), numbers))


def fastsketch(texts: Sequence[str], threads: int) -> list[int]:
    numpy, module = import_module("numpy"), import_module("FastSketchLSH")
    bands = 16  # Its sketches are of a power of two.
    sketches = module.FastSimilaritySketch(size=bands * ROWS, seed=1).batch(
        [shingles(text) for text in texts], num_threads=threads
    )
    index = module.LSH(num_perm=bands * ROWS, num_bands=bands, num_threads=threads)
    index.insert(sketches)
    flat, starts = index.query(sketches, format="csr")
    one = numpy.repeat(numpy.arange(len(texts)), numpy.diff(starts.astype(int)))
    earlier = flat < one
    one, other = one[earlier], flat[earlier].astype(int)
    same = numpy.array(
        [numpy.count_nonzero(sketches[a] == sketches[b]) for a, b in zip(one, other, strict=True)]
    )
    alike: list[list[int]] = [[] for _ in texts]
    for a, b in numpy.stack([one, other], 1)[same >= (THRESHOLD - SLACK) * bands * ROWS].tolist():
        alike[a].append(b)
    return kept_of(alike)


MODULES = {
    "gaoya": ("gaoya.minhash",),
    "fastsketch": ("numpy", "FastSketchLSH"),
    "rensa": ("rensa",),
    "dedup-rs": ("numpy", "dedup_rs"),
    "datasketch": ("datasketch",),
    "datatrove": ("datatrove.pipeline.dedup.minhash", "datatrove.executor"),
}
Times = dict[str, float]
LISTS: dict[str, Callable[[Sequence[str], int], list[int]]] = {
    "gaoya": gaoya,
    "fastsketch": fastsketch,
    "rensa": rensa,
    "dedup-rs": dedup_rs,
    "datasketch": datasketch,
}
"""Tools that are given all texts at once."""


def run_on_lists(tool: str, *, threads: int, output: Path, inputs: Sequence[Path]) -> Times:
    loads = import_module("orjson").loads
    started_at = time.perf_counter()
    lines = [line for path in inputs for line in path.read_bytes().split(b"\n") if line]
    texts = [loads(line)["text"] for line in lines]
    read_at = time.perf_counter()
    kept = LISTS[tool](texts, threads)
    near_s = time.perf_counter() - read_at
    output.mkdir(parents=True)
    with (output / "0.jsonl").open("wb") as stream:
        stream.writelines(lines[number] + b"\n" for number in kept)
        stream.flush()
        os.fsync(stream.fileno())
    return {"whole_s": time.perf_counter() - started_at, "near_s": near_s}


def run_datatrove(*, threads: int, output: Path, inputs: Sequence[Path]) -> Times:
    """Its four stages, each on all cores that it can use."""
    os.environ["DATATROVE_COLORIZE_LOGS"] = "0"
    minhash = import_module("datatrove.pipeline.dedup.minhash")
    hashing = import_module("datatrove.utils.hashing")
    reader = import_module("datatrove.pipeline.readers").JsonlReader
    writer = import_module("datatrove.pipeline.writers").JsonlWriter
    executor = import_module("datatrove.executor").LocalPipelineExecutor
    work = output.with_name(f"{output.name}.work")
    config = minhash.MinhashConfig(
        n_grams=WORDS,
        num_buckets=BANDS,
        hashes_per_bucket=ROWS,
        hash_config=hashing.HashConfig(precision=64, hash_fc="xxhash"),
    )
    documents = reader(str(inputs[0].parent), glob_pattern="[0-9].jsonl")
    stages = [
        (len(inputs), [documents, minhash.MinhashDedupSignature(f"{work}/1", config=config)]),
        (BANDS, [minhash.MinhashDedupBuckets(f"{work}/1", f"{work}/2", config=config)]),
        (1, [minhash.MinhashDedupCluster(f"{work}/2", f"{work}/3", config=config)]),
        (
            len(inputs),
            [
                documents,
                minhash.MinhashDedupFilter(f"{work}/3"),
                writer(str(output), compression=None),
            ],
        ),
    ]
    started_at = time.perf_counter()
    for number, (tasks, pipeline) in enumerate(stages):
        folder = str(work / f"log{number}")
        executor(pipeline, tasks=tasks, workers=threads, logging_dir=folder).run()
    whole_s = time.perf_counter() - started_at
    shutil.rmtree(work)
    return {"whole_s": whole_s, "near_s": whole_s}


def main() -> None:
    tool, threads, output, *inputs = sys.argv[1:]
    for name in MODULES[tool]:
        import_module(name)
    run = partial(run_on_lists, tool) if tool in LISTS else run_datatrove
    paths = [Path(path) for path in inputs]
    print(json.dumps(run(threads=int(threads), output=Path(output), inputs=paths)))


if __name__ == "__main__":
    main()
