# SPDX-License-Identifier: Apache-2.0
"""What converting a model costs, beside copying its bytes.

    python tools/bench/convert.py
    python tools/bench/convert.py --rounds 5 --folder /shared/somewhere --large
    python tools/bench/convert.py --bridge-python bridge/bin/python

A random Llama of 1.5 B parameters in bf16 (3.0 GB) goes from its Hugging Face folder to a native
checkpoint and back, each in a process of its own; ``cp`` and fsync of the same bytes stands beside
each, so a machine whose speed drifts is slow for both. Ratios are medians of the rounds' own; where
others work on the machine as well, the best of each are closer to the truth.
``--large`` converts a 70 B Llama of zeros, whose files are holes; since no disk may have room for
it, zeros are left as holes in what is written too. ``--bridge-python``: an interpreter that has
Megatron-Bridge (``tools/foreign/check.py`` makes one), which converts the same folder both ways.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LARGE = LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
RATIO_MAX, RSS_GIB_MAX = 1.4, 1.0
BRIDGE_SPEED_MIN, BRIDGE_RSS_MAX = 2.0, 0.5
BY_BRIDGE = Path(__file__).parents[1] / "foreign" / "by_bridge.py"
DIRECTIONS = ("HF to native", "native to HF")
SHARD_BYTES = 5 * 10**9
CHILD = "--child"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One conversion in a process of its own."""

    command_s: float
    """The whole process, imports included."""
    conversion_s: float
    """From opening the source to the rename."""
    rss_gib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary one)")
    parser.add_argument("--large", action="store_true", help="the 70 B folder of zeros as well")
    parser.add_argument("--bridge-python", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="megacpt-bench-", dir=arguments.folder))
    try:
        best = measure(work, rounds=arguments.rounds)
        measure_load(work)
        if arguments.large:
            measure_large(work)
        if arguments.bridge_python is None:
            print("Megatron-Bridge: not measured, no --bridge-python was given")
        else:
            measure_bridge(work, python=arguments.bridge_python, ours=best)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure(work: Path, *, rounds: int) -> dict[str, Run]:
    """The fastest conversion each way."""
    write_folder(work / "hf", config=LLAMA, values=True)
    size_gb = sum(p.stat().st_size for p in (work / "hf").iterdir()) / 1e9
    print(f"{size_gb:.2f} GB of weights, {rounds} rounds, {os.cpu_count()} cores")
    print(
        f"{'':<18}{'cp + fsync':>11}{'conversion':>12}{'ratio':>7}{'command':>10}{'peak RSS':>11}"
    )
    runs: dict[str, list[tuple[float, Run]]] = {name: [] for name in DIRECTIONS}
    for _ in range(rounds):
        for name, source, target in (
            (DIRECTIONS[0], work / "hf", work / "native"),
            (DIRECTIONS[1], work / "native", work / "back"),
        ):
            copied_s = copy(source, target=work / "copy")
            run = convert(source, target=target)
            runs[name].append((copied_s, run))
            print(
                f"{name:<14}{copied_s:>10.2f} s{run.conversion_s:>10.2f} s"
                f"{run.conversion_s / copied_s:>12.2f}"
                f"{run.command_s:>10.2f} s{run.rss_gib:>8.2f} GiB"
            )
        for name in ("native", "back"):
            shutil.rmtree(work / name)
    best = {}
    for name, found in runs.items():
        best[name] = min((run for _, run in found), key=lambda run: run.conversion_s)
        ratio = statistics.median(run.conversion_s / copied_s for copied_s, run in found)
        of_best = best[name].conversion_s / min(copied_s for copied_s, _ in found)
        print(
            f"{name}: median {ratio:.2f} of cp + fsync, best of best {of_best:.2f} "
            f"(goal: at most {RATIO_MAX})"
        )
    print(f"goal for the peak: at most {RSS_GIB_MAX:.1f} GiB")
    return best


def measure_large(work: Path) -> None:
    write_folder(work / "large", config=LARGE, values=False)
    size_gb = sum(p.stat().st_size for p in (work / "large").iterdir()) / 1e9
    run = convert(work / "large", target=work / "large-native", holes=True)
    print(
        f"{size_gb:.0f} GB of zeros to native: {run.conversion_s:.0f} s, {run.rss_gib:.2f} GiB "
        f"(goal: at most {RSS_GIB_MAX:.1f})"
    )
    shutil.rmtree(work / "large-native")
    shutil.rmtree(work / "large")


def measure_load(work: Path) -> None:
    """The folder into a model on four ranks, a quarter on each; by transformers in one process."""
    if not (work / "hf").exists():
        write_folder(work / "hf", config=LLAMA, values=True)
    whole = watched([sys.executable, __file__, CHILD, "transformers", str(work / "hf")])
    port = str(free_port())
    processes = []
    for rank in range(4):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4}
        environment = {name: str(value) for name, value in ranks.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, CHILD, "ranks", str(work / "hf")],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate()[0].strip().splitlines()[-1].split() for process in processes]
    slowest_s = max(float(elapsed_s) for elapsed_s, _ in said)
    share = max(float(grown) for _, grown in said)
    print(
        f"load with tp 2 x pp 2: {slowest_s:.2f} s on the slowest rank, transformers "
        f"{whole.conversion_s:.2f} s: {slowest_s / whole.conversion_s:.2f} (goal: at most 0.8); "
        f"memory {share:.2f} of the rank's weights (goal: at most 1.2)"
    )


def measure_bridge(work: Path, *, python: Path, ours: dict[str, Run]) -> None:
    if not (work / "hf").exists():
        write_folder(work / "hf", config=LLAMA, values=True)
    words = [str(python), str(BY_BRIDGE)]
    for name, (source, target, *base) in zip(
        DIRECTIONS,
        (("hf", "bridge"), ("bridge", "bridge-back", "hf")),
        strict=True,
    ):
        places = [str(work / place) for place in (source, target)]
        described = [str(work / place) for place in base]
        theirs = watched([*words, *places, str(free_port()), *described])
        print(
            f"{name}: Megatron-Bridge {theirs.conversion_s:.2f} s, {theirs.rss_gib:.2f} GiB; "
            f"megacpt {theirs.conversion_s / ours[name].conversion_s:.1f} times as fast (goal: "
            f"{BRIDGE_SPEED_MIN}), with {ours[name].rss_gib / theirs.rss_gib:.2f} of the peak "
            f"(goal: at most {BRIDGE_RSS_MAX})"
        )


def copy(source: Path, *, target: Path) -> float:
    """Seconds for the bytes of a folder and their way to the disk."""
    before = time.monotonic()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    for path in [*target.rglob("*"), target]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    elapsed_s = time.monotonic() - before
    shutil.rmtree(target)
    return elapsed_s


def convert(source: Path, *, target: Path, holes: bool = False) -> Run:
    words = [sys.executable, __file__, CHILD, str(source), str(target), *(["holes"] * holes)]
    return watched(words)


def watched(words: list[str]) -> Run:
    """Of a process that says at the end how long the conversion itself took, and its peak.

    wait4's ru_maxrss would begin with the peak of the process that started it.
    """
    before = time.monotonic()
    output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    conversion_s, peak_kib = output.strip().splitlines()[-1].split()
    return Run(
        command_s=time.monotonic() - before,
        conversion_s=float(conversion_s),
        rss_gib=int(peak_kib) / 2**20,
    )


def child(source: str, target: str, holes: str = "") -> None:
    if source in ("transformers", "ranks"):
        (load_by_transformers if source == "transformers" else load_on_ranks)(target)
        return
    from megacpt.convert.conversion import Conversion, Form, convert
    from megacpt.convert.opened import open_source

    if holes:
        leave_holes()
    before = time.monotonic()
    opened = open_source(Path(source))
    form = Form.native if opened.folder == opened.described_by else Form.hf
    convert(Conversion(source=opened, form=form, destination=Path(target)))
    print(time.monotonic() - before, peak_kib())


def peak_kib() -> str:
    """Of this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("VmHWM"))


def load_by_transformers(folder: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    before = time.monotonic()
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    print(time.monotonic() - before, peak_kib())


def load_on_ranks(folder: str) -> None:
    """Seconds, and by how much the peak of memory grows, in shares of the rank's weights."""
    from megacpt.config.sections import (
        ClusterConfig,
        DeviceKind,
        Dtype,
        ParallelConfig,
        PrecisionConfig,
    )
    from megacpt.device import runtime
    from megacpt.device.environment import RankInfo, rank_from_environment

    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1)
    started = runtime.start(ranks, cluster=cluster)
    from megacpt.device.groups import initialise_parallel
    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    parallel = ParallelConfig(tp=2, pp=2)
    initialise_parallel(parallel, seed=1)
    architecture = read_architecture(folder)
    before_kib = int(peak_kib())
    chunks = build_model(
        architecture,
        parallel=parallel,
        precision=PrecisionConfig(dtype=Dtype.bf16),
        kind=started.kind,
        sequence_length=64,
    )
    before = time.monotonic()
    load_hf(chunks, folder=folder, architecture=architecture)
    elapsed_s = time.monotonic() - before
    weights = sum(p.numel() * p.element_size() for chunk in chunks for p in chunk.parameters())
    print(elapsed_s, (int(peak_kib()) - before_kib) * 1024 / weights)
    runtime.stop()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def leave_holes() -> None:
    """Let zeros take no room on the disk: all else is done as ever."""
    import numpy as np

    write = os.pwritev

    def sparse(handle: int, parts: Any, at: int, flags: int = 0) -> int:
        for part in parts:
            if np.frombuffer(part, dtype=np.uint64 if len(part) % 8 == 0 else np.uint8).any():
                write(handle, [part], at)
            at += len(part)
        return sum(map(len, parts))

    os.pwritev = sparse
    os.posix_fallocate = lambda handle, at, size: os.ftruncate(handle, at + size)
    usage = shutil.disk_usage
    shutil.disk_usage = lambda path: usage(path)._replace(free=2**60)


def write_folder(folder: Path, *, config: dict[str, Any], values: bool) -> None:
    """A folder as transformers lays it out, one tensor after another; ``values``: random, else
    holes."""
    import numpy as np

    from megacpt.families import read_architecture
    from megacpt.families.stored.places import hf_shapes

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(1)
    shapes = hf_shapes(read_architecture(folder))
    files = shards(shapes)
    for number, names in enumerate(files):
        heads: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            size = int(np.prod(shapes[name])) * 2
            heads[name] = {
                "dtype": "BF16",
                "shape": shapes[name],
                "data_offsets": [end, end + size],
            }
            end += size
        head = json.dumps(heads).encode()
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            left = end // 2 if values else 0
            while left:
                numbers = random.standard_normal(min(left, 2**22), dtype=np.float32)
                # The upper half of an fp32 number is the bf16 one.
                file.write(numbers.view(np.uint16)[1::2].tobytes())
                left -= len(numbers)
            file.truncate(8 + len(head) + end)
            os.fsync(file.fileno())
    places = {name: f"model-{n}.safetensors" for n, names in enumerate(files) for name in names}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shards(shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    import numpy as np

    files: list[list[str]] = [[]]
    held = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 2
        if files[-1] and held + size > SHARD_BYTES:
            files.append([])
            held = 0
        files[-1].append(name)
        held += size
    return files


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(*sys.argv[2:])
    else:
        main()
