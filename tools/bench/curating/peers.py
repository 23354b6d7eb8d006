# SPDX-License-Identifier: Apache-2.0
"""Other tools, each as a process of its own: JSONL in, without near duplicates out.

    PYTHON peers.py TOOL THREADS OUTPUT INPUT...

Prints the seconds of the whole, without the start of Python and imports, and of the near-duplicate
step alone. Each does what its documentation shows, in the fastest way that it offers, with 14 bands
of 8 rows: of pairs of Jaccard 0.85 these find 98.8 %. A document is left out if one that is kept is
like it (datatrove and dedup-rs keep one of all that hang together).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
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
    module = import_module("rensa")
    sketches = module.RMinHash.from_token_sets(
        [shingles(text) for text in texts], num_perm=BANDS * ROWS, seed=1
    )
    index = module.RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS)
    index.insert_many(sketches)
    limit = THRESHOLD - SLACK
    return kept_of(
        [o for o in others if o < n and sketches[n].jaccard(sketches[o]) >= limit]
        for n, others in enumerate(index.query_all(sketches))
    )


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
    sketches = module.FastSimilaritySketch(size=BANDS * ROWS, seed=1).batch(
        [shingles(text) for text in texts], num_threads=threads
    )
    index = module.LSH(num_perm=BANDS * ROWS, num_bands=BANDS, num_threads=threads)
    index.build_from_batch(sketches)
    flat, starts = index.batch_query_csr(sketches)
    limit = (THRESHOLD - SLACK) * BANDS * ROWS
    return kept_of(
        [
            other
            for other in flat[starts[n] : starts[n + 1]]
            if other < n and numpy.count_nonzero(sketches[n] == sketches[other]) >= limit
        ]
        for n in range(len(texts))
    )


LISTS: dict[str, Callable[[Sequence[str], int], list[int]]] = {
    "gaoya": gaoya,
    "fastsketch": fastsketch,
    "rensa": rensa,
    "dedup-rs": dedup_rs,
    "datasketch": datasketch,
}
"""Tools that are given all texts at once."""


def run_on_lists(tool: str, *, threads: int, output: Path, inputs: Sequence[Path]) -> float:
    loads = import_module("orjson").loads
    lines = [line for path in inputs for line in path.read_bytes().split(b"\n") if line]
    texts = [loads(line)["text"] for line in lines]
    started_at = time.perf_counter()
    kept = LISTS[tool](texts, threads)
    near_s = time.perf_counter() - started_at
    output.mkdir(parents=True)
    with (output / "0.jsonl").open("wb") as stream:
        stream.writelines(lines[number] + b"\n" for number in kept)
        stream.flush()
        os.fsync(stream.fileno())
    return near_s


def run_datatrove(*, threads: int, output: Path, inputs: Sequence[Path]) -> float:
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
    near_s = time.perf_counter() - started_at
    shutil.rmtree(work)
    return near_s


def main() -> None:
    tool, threads, output, *inputs = sys.argv[1:]
    paths = [Path(path) for path in inputs]
    started_at = time.perf_counter()
    if tool == "datatrove":
        near_s = run_datatrove(threads=int(threads), output=Path(output), inputs=paths)
    else:
        near_s = run_on_lists(tool, threads=int(threads), output=Path(output), inputs=paths)
    print(json.dumps({"whole_s": time.perf_counter() - started_at, "near_s": near_s}))


if __name__ == "__main__":
    main()
