# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of a training step on a CPU, beside transformers and beside the floor.

    python tools/bench/train.py
    python tools/bench/train.py --rounds 9 --only floor peer ours

One workload for all: Llama shape, 8 layers, hidden 512, MLP 1408, 8 heads, 4 key-value heads,
vocabulary 32000, 4 sequences of 1024 tokens a step, AdamW, clipping, all cores of this machine.

    floor   the matrix products of every linear layer and scaled_dot_product_attention, forward and
            backward, in bf16, and nothing else
    peer    transformers' LlamaForCausalLM under bf16 autocast with torch's fused AdamW
    ours    megacpt's step: bf16, fp32 master weights and gradients
    dp2     the same on two data-parallel ranks, half of the cores each, communication overlapped

Each is a process of its own (dp2: two), and they take turns (turns.py).
``startup`` times ``megacpt train`` on a tiny model, from the command to its first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import Entrant, Ratio, Step, own_step, print_table, race, take_turns

LAYERS, HIDDEN, MLP, HEADS, KV_HEADS, VOCABULARY = 8, 512, 1408, 8, 4, 32000
SAMPLES, LENGTH = 4, 1024
HEAD_DIM = HIDDEN // HEADS
TOKENS = SAMPLES * LENGTH
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": False,
}
OURS_SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {"data": {"micro_batch_size": SAMPLES}},
    "dp2": {
        "data": {"micro_batch_size": SAMPLES // 2},
        "parallel": {"dp": 2, "distributed_optimizer": True, "overlap_grad_reduce": True}
        | {"overlap_param_gather": True},
    },
}


def floor() -> Step:
    """What no trainer that uses torch's products and attention can go below."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attention

    qkv = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    of_layer = [(HIDDEN, qkv), (HIDDEN, HIDDEN), (HIDDEN, 2 * MLP), (MLP, HIDDEN)]
    shapes = of_layer * LAYERS + [(HIDDEN, VOCABULARY)]

    def make(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes).to(torch.bfloat16)

    products = [(make(TOKENS, i), make(o, i), make(TOKENS, o)) for i, o in shapes]
    q, k, v = (
        make(SAMPLES, heads, LENGTH, HEAD_DIM).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    d_out_BHSD = make(SAMPLES, HEADS, LENGTH, HEAD_DIM)

    def step() -> None:
        for x, weight, d_y in products:
            torch.mm(x, weight.t())
            torch.mm(d_y, weight)
            torch.mm(d_y.t(), x)
        for _ in range(LAYERS):
            out_BHSD = attention(q, k, v, is_causal=True, enable_gqa=True)
            torch.autograd.grad(out_BHSD, (q, k, v), d_out_BHSD)

    return step


def peer() -> Step:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    adamw = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    tokens_BS = torch.randint(0, VOCABULARY, (SAMPLES, LENGTH))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=tokens_BS, labels=tokens_BS).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        return float(loss.detach())

    return step


def ours(name: str, work: Path) -> Step:
    return own_step([run_settings(work, name=name), OURS_SETTINGS[name]])


def run_settings(work: Path, *, name: str) -> dict[str, Any]:
    return {
        "run_dir": str(work / f"run-{name}"),
        "model": {"path": str(work / "model"), "init": "random"},
        "data": {
            "sources": {"random": {"prefix": str(work / "random")}},
            "sequence_length": LENGTH,
            "global_batch_size": SAMPLES,
        },
        "optim": {"lr_peak": 1e-4},
        "schedule": {"steps": 1000},
    }


def write_inputs(work: Path) -> None:
    """A model folder without weights and a shard of random tokens."""
    import numpy as np
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    from megacpt.shards.reader import write_shard

    model = work / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama", **LLAMA}))
    words = {f"t{n}": n for n in range(VOCABULARY)}
    Tokenizer(WordLevel(words, unk_token="t0")).save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "t1"}))
    rng = np.random.default_rng(0)
    documents = (rng.integers(0, VOCABULARY, LENGTH + 1) for _ in range(400))
    write_shard(work / "random", documents=documents, vocab_size=VOCABULARY)


def work_as(name: str, work: Path, cores: int) -> None:
    import torch

    torch.set_num_threads(cores)
    take_turns(
        {"floor": floor, "peer": peer}[name]() if name in ("floor", "peer") else ours(name, work)
    )


def compare(names: list[str], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        command = [sys.executable, __file__, "--work", folder, "--work-as"]
        entrants = {n: Entrant(command=[*command, n], world=2 if n == "dp2" else 1) for n in names}
        race(entrants, rounds=rounds)
    print_table(entrants, tokens=TOKENS, ratios=RATIOS)
    if {"peer", "ours"} <= entrants.keys():
        memory = entrants["ours"].peak_bytes / entrants["peer"].peak_bytes
        print(f"{'peak memory of ours over the peer':52}{memory:6.2f}")


RATIOS = (
    Ratio(of="ours", over="peer", what="speed of ours over the peer"),
    Ratio(of="ours", over="floor", what="speed of ours over the floor"),
    Ratio(of="peer", over="floor", what="speed of the peer over the floor"),
    Ratio(of="dp2", over="ours", what="speed of two ranks over one with all cores"),
)


def startup(rounds: int) -> None:
    """``megacpt train`` until its first step begins, and megacpt's own part of the imports."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = [time_to_first_step(Path(folder) / str(n)) for n in range(rounds + 1)][1:]
    measured_s, stepped_s = (statistics.median(each) for each in zip(*seconds, strict=True))
    print(f"{'megacpt train until its first step begins, s':52}{measured_s:6.2f}")
    print(f"{'until that step has ended, s':52}{stepped_s:6.2f}")
    print(f"{'of which imports of megacpt itself, s':52}{own_imports_s():6.2f}")


def time_to_first_step(run_dir: Path) -> tuple[float, float]:
    """Seconds until the base model is measured, after which the step begins, and until its end."""
    command = [sys.executable, "-m", "megacpt", "train", "experiment=tiny", f"run_dir={run_dir}"]
    command += ["schedule.steps=2", "schedule.warmup_steps=1", "monitor.wandb=disabled"]
    command += ["cluster.device=cpu"]
    started_s = time.perf_counter()
    seen_s: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as train:
        metrics = run_dir / "metrics.jsonl"
        while len(seen_s) < 2 and train.poll() is None:
            if metrics.exists() and f'"step": {len(seen_s)},' in metrics.read_text():
                seen_s.append(time.perf_counter() - started_s)
            time.sleep(0.02)
    if len(seen_s) < 2:
        sys.exit("megacpt train ended before its first step")
    return seen_s[0], seen_s[1]


def own_imports_s() -> float:
    """Seconds in modules of megacpt, without those that they import from elsewhere."""
    code = (
        "import megacpt.device.cpu.import_hook as h; h.install(); "
        "import megacpt.cli, megacpt.train.assembly"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    total_us = 0
    for line in done.stderr.splitlines():
        if not line.startswith("import time:") or "imported package" in line:
            continue
        own_us, _, module = line.removeprefix("import time:").split("|")
        if module.strip().split(".")[0] == "megacpt":
            total_us += int(own_us)
    return total_us / 1e6


def main() -> None:
    names = ["floor", "peer", "ours", "dp2"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=[*names, "startup"])
    parser.add_argument("--work-as", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work_as:
        work_as(arguments.work_as, arguments.work, arguments.cores)
    chosen = arguments.only or [*names, "startup"]
    if set(chosen) & set(names):
        compare([name for name in names if name in chosen], arguments.rounds)
    if "startup" in chosen:
        startup(min(arguments.rounds, 3))


if __name__ == "__main__":
    main()
