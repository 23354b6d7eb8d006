# SPDX-License-Identifier: Apache-2.0
"""Peak memory of tokenizing a Parquet file of one row group, beside reading the row group whole.

    python tools/bench/parquet_memory.py --megabytes 2048 --tokenizer configs/model/tiny
    python tools/bench/parquet_memory.py --rows long --writer-page-rows 1024

Writes the file, with texts of some kilobytes, to a temporary folder that is removed at the end.
``whole`` is what pyarrow reads if it is told nothing (read_row_group); ``tokenize`` is
all of the verb, tokenizer and Python included. Each is a process of its own; the peak is that of
resident memory, as the kernel counts it. --code compares another checkout of megacpt.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LENGTHS = {"usual": (300, 2000, 6000), "mixed": (20,) * 400 + (100_000,), "long": (500_000,)}
"""Characters of a text, one of them drawn for each row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rows", choices=list(LENGTHS), default="usual")
    parser.add_argument("--writer-page-rows", type=int, default=1024)
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "configs" / "model" / "tiny")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--code", type=Path, help="another checkout, beside this one")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measure(*arguments.worker, arguments=arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "one.parquet"
        write(file, arguments=arguments)
        print(f"{'way':<34}{'peak':>12}{'seconds':>10}{'documents':>12}")
        ways = [("whole", ROOT), ("tokenize", ROOT)]
        ways += [("tokenize", arguments.code)] * (arguments.code is not None)
        for way, code in ways:
            found = run(way, file=file, code=code)
            name = way if code == ROOT else f"{way} ({code})"
            print(
                f"{name:<34}{found['peak_bytes'] / 2**20:>8.0f} MiB{found['seconds']:>10.1f}"
                f"{found['documents']:>12,}"
            )


def run(way: str, *, file: Path, code: Path) -> dict[str, float]:
    words = [sys.executable, __file__, *sys.argv[1:], "--worker", way, str(file)]
    env = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=env)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write(path: Path, *, arguments: argparse.Namespace) -> None:
    """Texts cut from one of random words, so that they neither repeat nor compress to nothing."""
    import pyarrow
    from pyarrow import parquet

    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]
    source = " ".join(rng.choices(words, k=900_000)).encode()
    texts, size = [], 0
    while size < arguments.megabytes << 20:
        length = rng.choice(LENGTHS[arguments.rows])
        start = rng.randrange(len(source) - length)
        texts.append(source[start : start + length])
        size += length
    column = pyarrow.array(texts, pyarrow.large_binary()).cast(pyarrow.large_string())
    parquet.write_table(
        pyarrow.table({"id": range(len(texts)), "text": column}),
        path,
        row_group_size=len(texts),
        write_batch_size=arguments.writer_page_rows,
    )


def measure(way: str, file: str, *, arguments: argparse.Namespace) -> None:
    started_at = time.monotonic()
    documents = read_whole(file) if way == "whole" else tokenized(file, arguments=arguments)
    # Not getrusage's: that begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak_kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    found = {"seconds": time.monotonic() - started_at, "documents": documents}
    print(json.dumps(found | {"peak_bytes": int(peak_kib) << 10}))


def read_whole(file: str) -> int:
    from pyarrow import parquet

    return len(parquet.ParquetFile(file).read_row_group(0, columns=["text"]))


def tokenized(file: str, *, arguments: argparse.Namespace) -> int:
    from megacpt.shards.tokenize import tokenize

    manifest = tokenize(
        [file],
        tokenizer=arguments.tokenizer,
        output_prefix=Path(file).with_name(f"out-{os.getpid()}"),
        workers=arguments.workers,
    )
    assert manifest is not None, "only a task returns nothing"
    return manifest.documents


if __name__ == "__main__":
    main()
