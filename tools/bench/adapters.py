# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of training an adapter on a CPU, beside peft, Unsloth and the floor.

    python tools/bench/adapters.py
    python tools/bench/adapters.py --unsloth-python unsloth/bin/python --rounds 9
    python tools/bench/adapters.py --only peft lora --busy

One workload for all: SmolLM2-135M, 4 sequences of 512 tokens a step, rank 16, alpha 32, all linear
layers, AdamW, clipping, bf16, all cores of this machine. Nobody recomputes activations.

    floor       the matrix products that training on frozen weights cannot do without, and nothing
                else: of every linear layer, its two factors, the head and attention
    peft        transformers' model in bf16 under peft, whose factors are float32
    peft-dora   the same with DoRA
    peft-full   transformers' model alone, all weights trained
    unsloth     Unsloth's CPU backend: transformers, peft and a cross entropy in chunks
    full, lora, dora, nf4   megacpt's own step: all weights trained, or the adapter alone

A peer enters as the fastest of its variants (4 x 1 or 1 x 4 sequences, attention, autocast), which
run for a few steps before; ``--trials 0`` takes the first of each. Each is a process of its own;
they take turns (turns.py), in two heats, because not all find room at once.

``--unsloth-python`` names an interpreter that has Unsloth 2026.10.9, torch for CPUs, transformers
5.17, peft, trl, torchao, bitsandbytes and cut_cross_entropy.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from turns import Entrant, Ratio, Step, own_step, print_table, race, take_turns

LAYERS, HIDDEN, MLP, HEADS, KV_HEADS, VOCABULARY = 30, 576, 1536, 9, 3, 49152
SAMPLES, LENGTH = 4, 512
HEAD_DIM = HIDDEN // HEADS
TOKENS = SAMPLES * LENGTH
RANK, ALPHA = 16, 32
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BLOCK = 64
"""Rows of attention's products; keys after a block are not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way to train with transformers."""

    method: str = "lora"
    micro: int = SAMPLES
    """Sequences of a forward pass."""
    attention: str = "sdpa"
    dtype: str = "bfloat16"
    autocast: bool = False
    unsloth: bool = False


def variants(method: str, **fixed: Any) -> list[Peer]:
    axes = product(("sdpa", "eager"), (False, True), (1, SAMPLES))
    return [
        Peer(method=method, micro=micro, attention=attention, autocast=autocast, **fixed)
        for attention, autocast, micro in axes
    ]


PEERS: dict[str, list[Peer]] = {
    "peft": variants("lora"),
    "peft-dora": variants("dora"),
    "peft-full": [
        Peer(method="full", micro=micro, dtype=dtype, autocast=dtype == "float32")
        for dtype, micro in product(("bfloat16", "float32"), (1, SAMPLES))
    ],
    "unsloth": variants("lora", unsloth=True),
}
ADAPTER = {"rank": RANK, "alpha": ALPHA, "targets": "all-linear"}
OURS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": {"method": "lora", **ADAPTER}},
    "dora": {"adapter": {"method": "dora", **ADAPTER}},
    "nf4": {"adapter": {"method": "lora", "base": "nf4", **ADAPTER}},
}
HEATS = (
    ("floor", "peft", "unsloth", "full", "lora", "nf4"),
    ("peft", "peft-dora", "peft-full", "lora", "dora"),
)
NAMES = tuple(dict.fromkeys(name for heat in HEATS for name in heat))
RATIOS = (
    *(Ratio(of=ours, over=peer) for ours in ("lora", "nf4") for peer in ("peft", "unsloth")),
    Ratio(of="nf4", over="lora"),
    Ratio(of="lora", over="full"),
    Ratio(of="dora", over="lora"),
    Ratio(of="peft-dora", over="peft"),
    Ratio(of="dora", over="peft-dora"),
    Ratio(of="peft", over="peft-full"),
    Ratio(of="lora", over="floor"),
)
TRIAL_STEPS = 2


def floor() -> Step:
    """No adapter changes without the first products, and no step is without the others."""
    import torch

    def make(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes).to(torch.bfloat16)

    qkv = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    of_layer = [(HIDDEN, qkv, 3), (HIDDEN, HIDDEN, 1), (HIDDEN, 2 * MLP, 2), (MLP, HIDDEN, 1)]
    linears = [
        (make(TOKENS, i), make(o, i), make(TOKENS, o), make(RANK * n, i), make(o, RANK * n))
        for i, o, n in of_layer * LAYERS
    ]
    x_head, w_head = make(TOKENS, HIDDEN), make(VOCABULARY, HIDDEN)
    q, k, v, d_out = (make(SAMPLES * HEADS, LENGTH, HEAD_DIM) for _ in range(4))

    def step() -> None:
        for x, weight, d_y, a, b in linears:
            h = x @ a.t()
            (x @ weight.t()).addmm_(h, b.t())
            d_h = d_y @ b
            (d_y @ weight).addmm_(d_h, a)
            d_h.t() @ x
            d_y.t() @ h
        for _ in range(LAYERS):
            attention_products(q, k=k, v=v, d_out=d_out)
        for rows in torch.split(x_head, LENGTH):
            (rows @ w_head.t()) @ w_head

    return step


def attention_products(q: Any, *, k: Any, v: Any, d_out: Any) -> None:
    """Forward and backward, the scores made once."""
    for end in range(BLOCK, LENGTH + 1, BLOCK):
        rows, seen = slice(end - BLOCK, end), slice(0, end)
        scores = q[:, rows] @ k[:, seen].mT
        scores @ v[:, seen]
        scores.mT @ d_out[:, rows]
        d_scores = d_out[:, rows] @ v[:, seen].mT
        d_scores @ k[:, seen]
        d_scores.mT @ q[:, rows]


def peer_step(peer: Peer, *, folder: Path) -> Step:
    import torch

    model = unsloth_model(peer, folder=folder) if peer.unsloth else peft_model(peer, folder=folder)
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens_BS = torch.randint(0, VOCABULARY, (SAMPLES, LENGTH))

    def step() -> None:
        for tokens in torch.split(tokens_BS, peer.micro):
            with torch.autocast("cpu", torch.bfloat16, enabled=peer.autocast):
                loss = model(input_ids=tokens, labels=tokens).loss
            (loss * (peer.micro / SAMPLES)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adamw.step()
        adamw.zero_grad()

    return step


def peft_model(peer: Peer, *, folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, peer.dtype), attn_implementation=peer.attention
    )
    model.config.use_cache = False
    model.train()
    if peer.method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    dora = peer.method == "dora"
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", use_dora=dora)
    return get_peft_model(model, config)


def unsloth_model(peer: Peer, *, folder: Path) -> Any:
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=LENGTH,
        dtype=peer.dtype,
        load_in_4bit=False,
        use_gradient_checkpointing=False,
        attn_implementation=peer.attention,
    )
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, target_modules=LINEARS, use_gradient_checkpointing=False
    )
    # Its trainer does so around each step: the loss in chunks is for training alone.
    model.base_model.model._unsloth_cpu_chunked_ce_active = True
    return model.for_training() or model


def run_settings(work: Path, *, name: str) -> dict[str, Any]:
    return {
        "run_dir": str(work / f"run-{name}"),
        "model": {"path": str(work / "model")},
        "data": {
            "sources": {"random": {"prefix": str(work / "random")}},
            "sequence_length": LENGTH,
            "global_batch_size": SAMPLES,
            "micro_batch_size": SAMPLES,
        },
        "optim": {"lr_peak": 1e-4},
        "schedule": {"steps": 1000},
    }


def write_inputs(work: Path) -> None:
    """The model that the quickstart trains, and a shard of random tokens."""
    import numpy as np

    from megacpt.demo.base_model import write_smollm2_folder
    from megacpt.shards.reader import write_shard

    write_smollm2_folder(work / "model")
    rng = np.random.default_rng(0)
    documents = (rng.integers(0, VOCABULARY, LENGTH + 1) for _ in range(400))
    write_shard(work / "random", documents=documents, vocab_size=VOCABULARY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """How the entrants are started."""

    work: Path
    unsloth_python: str | None
    busy: bool
    trials: int

    def start(self, name: str, *, peer: Peer | None) -> Entrant:
        command = [self._python(peer), __file__, "--work", str(self.work), "--work-as", name]
        if peer is not None:
            command += ["--peer", json.dumps(asdict(peer))]
        return Entrant(command=command, busy=self.busy)

    def fastest(self, name: str) -> Peer:
        """Of a peer's variants; what each of them took is printed."""
        best: tuple[float, Peer] | None = None
        for peer in PEERS[name] if self.trials else PEERS[name][:1]:
            if not self.trials:
                return peer
            entrant = self.start(name, peer=peer)
            race({name: entrant}, rounds=self.trials)
            step_s, gib = min(entrant.steps_s), entrant.peak_bytes / 2**30
            how = f"{peer.micro} at once, {peer.attention}, {peer.dtype}"
            how += ", autocast" if peer.autocast else ""
            print(f"{name}: {how}: {TOKENS / step_s:.0f} tokens/s, {gib:.2f} GiB", flush=True)
            best = min(best or (step_s, peer), (step_s, peer), key=lambda found: found[0])
        assert best is not None
        return best[1]

    def _python(self, peer: Peer | None) -> str:
        if peer is not None and peer.unsloth:
            assert self.unsloth_python is not None
            return self.unsloth_python
        return sys.executable


def compare(names: Iterable[str], *, bench: Bench, rounds: int) -> None:
    write_inputs(bench.work)
    chosen = {name: bench.fastest(name) if name in PEERS else None for name in names}
    for heat in HEATS:
        found = [name for name in heat if name in chosen]
        if found:
            entrants = {name: bench.start(name, peer=chosen[name]) for name in found}
            race(entrants, rounds=rounds)
            print_table(entrants, tokens=TOKENS, ratios=RATIOS)
            print_memory(entrants)


def print_memory(entrants: Mapping[str, Entrant]) -> None:
    peaks = {name: entrant.peak_bytes for name, entrant in entrants.items()}
    peers = [peak for name, peak in peaks.items() if name in ("peft", "unsloth")]
    for name in ("lora", "nf4"):
        if name in peaks and peers:
            what = f"peak memory of {name} over the smaller peer"
            print(f"{what:52}{peaks[name] / min(peers):6.2f}")


def work_as(name: str, *, work: Path, peer: Peer | None) -> Step:
    if peer is not None:
        return peer_step(peer, folder=work / "model")
    return floor() if name == "floor" else own_step([run_settings(work, name=name), OURS[name]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trials", type=int, default=TRIAL_STEPS)
    parser.add_argument("--only", nargs="+", choices=NAMES)
    parser.add_argument("--unsloth-python", metavar="PYTHON")
    parser.add_argument("--busy", action="store_true", help="one thread, its seconds of computing")
    parser.add_argument("--work-as", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peer", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work_as:
        import torch

        torch.set_num_threads(arguments.cores)
        peer = None if arguments.peer is None else Peer(**arguments.peer)
        take_turns(work_as(arguments.work_as, work=arguments.work, peer=peer), busy=arguments.busy)
    names = [name for name in NAMES if name in (arguments.only or NAMES)]
    if arguments.unsloth_python is None and "unsloth" in names:
        print("Unsloth: not measured, no --unsloth-python was given")
        names.remove("unsloth")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            work=Path(folder),
            unsloth_python=arguments.unsloth_python,
            busy=arguments.busy,
            trials=arguments.trials,
        )
        compare(names, bench=bench, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
