# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of tuning on packed conversations on a CPU, beside TRL's SFTTrainer.

    python tools/bench/sft.py
    python tools/bench/sft.py --rounds 1 --trials 0 --length 64    # to see that it runs

One workload for both: SmolLM2-135M, all weights, ChatML, conversations of one to six turns packed
best-fit into rows of 512 tokens, 4 rows a step, loss on replies alone, AdamW, clipping, bf16 (or
--dtype fp32, for a CPU without bf16 products), all cores of this machine. Nobody recomputes
activations.

    trl         SFTTrainer as it is called: packing=True, assistant_only_loss=True
    megacpt     a step of a run with objective=sft

TRL enters as the fastest of its variants (4 x 1 or 1 x 4 rows, attention, autocast), which run for
a few steps before; ``--trials 0`` takes the first. Each is a process of its own; they take turns
(turns.py). Both pack the same conversations into rows that are about full, though not into the same
ones; tokens a second are those of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from turns import Entrant, Ratio, Step, own_step, print_table, race, take_turns

ROWS, LENGTH = 4, 512
CONVERSATIONS = 1000
STEPS = 1000
TRIAL_STEPS = 2
WORDS = tuple(
    "tea milk river stone seven nine blue green why because please water light answer number "  # noqa: SIM905
    "small large under over after before open close read write begin end left right".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way to call TRL."""

    micro: int = 1
    """Rows of a forward pass; the others of a step are accumulated."""
    attention: str = "sdpa"
    dtype: str = "float32"
    """Of the weights."""
    autocast: bool = True
    """Compute in bf16 all the same."""


WEIGHTS = {"bf16": [("float32", True), ("bfloat16", False)], "fp32": [("float32", False)]}
"""What is computed in -> types of TRL's weights, and whether it casts."""


def peers_of(dtype: str) -> list[Peer]:
    return [
        Peer(micro=micro, attention=attention, dtype=weights, autocast=autocast)
        for micro, attention, (weights, autocast) in product(
            (1, ROWS), ("sdpa", "eager"), WEIGHTS[dtype]
        )
    ]


def conversations() -> list[list[dict[str, str]]]:
    draw = random.Random(0)

    def said(role: str) -> dict[str, str]:
        return {"role": role, "content": " ".join(draw.choices(WORDS, k=draw.randint(5, 60)))}

    return [
        [said(role) for _ in range(draw.randint(1, 3)) for role in ("user", "assistant")]
        for _ in range(CONVERSATIONS)
    ]


def write_inputs(work: Path, *, length: int) -> None:
    """The model that the quickstart trains, and a packed shard of conversations."""
    from megacpt.corpus.documents import OnError
    from megacpt.demo.base_model import write_smollm2_folder
    from megacpt.shards.chat import tokenize_chat
    from megacpt.shards.chat.encode import OnLong
    from megacpt.shards.chat.template import choose_template
    from megacpt.shards.packing import build_packing
    from megacpt.shards.reader import IndexedShard
    from megacpt.tokenizer import load_tokenizer

    write_smollm2_folder(work / "model")
    lines = (json.dumps({"messages": messages}) for messages in conversations())
    (work / "chat.jsonl").write_text("\n".join(lines))
    tokenizer = load_tokenizer(work / "model")
    tokenize_chat(
        [work / "chat.jsonl"],
        tokenizer=tokenizer,
        output_prefix=work / "chat",
        template=choose_template("chatml", tokenizer=tokenizer),
        max_tokens=length + 1,
        on_long=OnLong.truncate,
        on_error=OnError.skip,  # What is cut off may be all of a reply.
    )
    build_packing(IndexedShard(work / "chat"), sequence_length=length)


def own(work: Path, *, length: int, dtype: str) -> Step:
    settings = {
        "precision": {"dtype": dtype},
        "run_dir": str(work / "run"),
        "objective": "sft",
        "model": {"path": str(work / "model")},
        "data": {
            "sources": {"chat": {"prefix": str(work / "chat")}},
            "packing": "best_fit",
            "document_mask": True,
            "sequence_length": length,
            "global_batch_size": ROWS,
            "micro_batch_size": ROWS,
        },
        "optim": {"lr_peak": 1e-5},
        "schedule": {"steps": STEPS},
    }
    return own_step([settings])


def trl_step(work: Path, *, peer: Peer, length: int) -> Step:
    """A step of the trainer, which waits before each one until it is asked for."""
    from transformers import TrainerCallback

    asked, done = threading.Semaphore(0), threading.Semaphore(0)

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            asked.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        os.environ.pop(name, None)  # Or it would reduce gradients among one rank.
    trainer = trl_trainer(work, peer=peer, length=length)
    trainer.add_callback(Turns())
    threading.Thread(target=trainer.train, daemon=True).start()

    def step() -> None:
        asked.release()
        done.acquire()

    return step


def trl_trainer(work: Path, *, peer: Peer, length: int) -> Any:
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from megacpt.shards.chat.template import BUILTIN

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    tokenizer.chat_template = (BUILTIN / "chatml.jinja").read_text()
    model = AutoModelForCausalLM.from_pretrained(
        work / "model", dtype=getattr(torch, peer.dtype), attn_implementation=peer.attention
    )
    settings = SFTConfig(
        output_dir=str(work / "trl"),
        packing=True,
        assistant_only_loss=True,
        max_length=length,
        per_device_train_batch_size=peer.micro,
        gradient_accumulation_steps=ROWS // peer.micro,
        max_steps=STEPS,
        learning_rate=1e-5,
        bf16=peer.autocast,
        use_cpu=True,
        activation_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    dataset = Dataset.from_list([{"messages": messages} for messages in conversations()])
    return SFTTrainer(model=model, args=settings, train_dataset=dataset, processing_class=tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    work: Path
    length: int
    busy: bool
    trials: int
    dtype: str

    @property
    def tokens(self) -> int:
        return ROWS * self.length

    def start(self, peer: Peer | None) -> Entrant:
        command = [sys.executable, __file__, "--work", str(self.work), "--dtype", self.dtype]
        command += [
            "--length",
            str(self.length),
            "--peer",
            json.dumps(asdict(peer) if peer else {}),
        ]
        return Entrant(command=command, busy=self.busy)

    def fastest(self) -> Peer:
        """Of TRL's variants; what each of them took is printed."""
        peers = peers_of(self.dtype)
        if not self.trials:
            return peers[0]
        found: dict[Peer, float] = {}
        for peer in peers:
            entrant = self.start(peer)
            race({"trl": entrant}, rounds=self.trials)
            found[peer] = min(entrant.steps_s)
            how = f"{peer.micro} at once, {peer.attention}, {peer.dtype}"
            print(f"trl: {how}: {self.tokens / found[peer]:.0f} tokens/s", flush=True)
        return min(found, key=lambda peer: found[peer])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trials", type=int, default=TRIAL_STEPS)
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a row")
    parser.add_argument("--dtype", choices=WEIGHTS, default="bf16", help="that both compute in")
    parser.add_argument("--busy", action="store_true", help="one thread, its seconds of computing")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peer", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer is not None:
        import torch

        torch.set_num_threads(arguments.cores)
        work, length = arguments.work, arguments.length
        peer = Peer(**arguments.peer) if arguments.peer else None
        step = (
            trl_step(work, peer=peer, length=length)
            if peer
            else own(work, length=length, dtype=arguments.dtype)
        )
        take_turns(step, busy=arguments.busy)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            work=Path(folder),
            length=arguments.length,
            busy=arguments.busy,
            trials=arguments.trials,
            dtype=arguments.dtype,
        )
        write_inputs(bench.work, length=bench.length)
        entrants = {"trl": bench.start(bench.fastest()), "megacpt": bench.start(None)}
        race(entrants, rounds=arguments.rounds)
        print_table(entrants, tokens=bench.tokens, ratios=[Ratio(of="megacpt", over="trl")])


if __name__ == "__main__":
    main()
