# SPDX-License-Identifier: Apache-2.0
"""Score questions of four options, and continue prompts, beside lm-eval's ``hf`` model.

    python tools/quickstart.py                              # once: makes quickstart/model
    pip download --no-deps evals==3.0.1.post1 && unzip evals-*.whl -d build/evals
    python tools/bench/evaluate.py --items \\
        build/evals/evals/registry/data/fcc_amateur_extra/samples.jsonl

Each measurement is a process of its own, so that peak memory is its own. Speed is items a second of
wall clock and of CPU time, with loading left out; the peer's is that of its best batch size. Scores
are compared in fp32, where the peer's softmax is set to float64: in float32 it is wrong by 2e-4.
Items are asked without instructions or solved examples, of which the native model computes one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LETTERS = ["A", "B", "C", "D"]
PROMPT_TOKENS = 64


@dataclass(kw_only=True)
class Measured:
    wall_s: float
    cpu_s: float
    peak_gib: float
    found: list[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("quickstart/model"))
    parser.add_argument("--items", type=Path, required=True, help="JSONL in the form of evals")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument(
        "--dtype",
        choices=("bf16", "fp32"),
        default="bf16",
        help="of both where speed is measured; fp32 on a CPU without bf16 products",
    )
    parser.add_argument("--peer-batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--child", nargs=3, metavar=("WHO", "WHAT", "DTYPE"))
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.child:
        _print_child(arguments)
        return
    print(f"{'what':<28}{'native':>10}{'peer':>10}{'ratio':>8}")
    _compare_speed(arguments, what="score", count=arguments.limit)
    _compare_speed(arguments, what="write", count=arguments.prompts)
    _compare_scores(arguments)


def _compare_speed(arguments: argparse.Namespace, *, what: str, count: int) -> None:
    own = _measured(arguments, who="native", what=what, dtype=arguments.dtype, batch=1)
    peers = [
        _measured(arguments, who="peer", what=what, dtype=arguments.dtype, batch=batch)
        for batch in arguments.peer_batches
    ]
    peer = min(peers, key=lambda each: each.wall_s)
    rows = {
        f"{what}: items/s": (count / own.wall_s, count / peer.wall_s),
        f"{what}: items/CPU s": (count / own.cpu_s, count / peer.cpu_s),
        f"{what}: peak GiB": (own.peak_gib, peer.peak_gib),
    }
    for name, (ours, theirs) in rows.items():
        print(f"{name:<28}{ours:>10.2f}{theirs:>10.2f}{ours / theirs:>8.2f}", flush=True)


def _compare_scores(arguments: argparse.Namespace) -> None:
    """In fp32: the largest difference of a log likelihood, and of what is chosen."""
    own, peer = (
        _measured(arguments, who=who, what="score", dtype="fp32", batch=arguments.peer_batches[0])
        for who in ("native", "peer")
    )
    pairs = list(zip(own.found, peer.found, strict=True))
    furthest = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
    same = sum(one.index(max(one)) == two.index(max(two)) for one, two in pairs)
    print(f"fp32: largest difference {furthest:.1e} nats; {same} of {len(pairs)} choices the same")


def _measured(
    arguments: argparse.Namespace, *, who: str, what: str, dtype: str, batch: int
) -> Measured:
    command = [sys.executable, __file__, "--child", who, what, dtype, "--batch", str(batch)]
    for name in ("model", "items", "limit", "prompts", "new_tokens"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _print_child(arguments: argparse.Namespace) -> None:
    who, what, dtype = arguments.child
    lm_of = _native if who == "native" else _peer
    with open(arguments.items, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][: arguments.limit]
    asked = _questions(rows) if what == "score" else _prompts(rows, arguments=arguments)
    found = lm_of(arguments, dtype=dtype, ask=_timed(asked, what=what))
    print(json.dumps(asdict(found)))


def _timed(requests: list[Any], *, what: str) -> Callable[[Any], Measured]:
    def ask(lm: Any) -> Measured:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        if what == "score":
            flat = [total for total, _ in lm.loglikelihood(requests, disable_tqdm=True)]
            found: list[Any] = [flat[n : n + 4] for n in range(0, len(flat), 4)]
        else:
            found = lm.generate_until(requests)
        return Measured(
            wall_s=time.perf_counter() - wall_s,
            cpu_s=time.process_time() - cpu_s,
            peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            found=found,
        )

    return ask


def _questions(rows: list[dict[str, Any]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type="loglikelihood", doc={}, arguments=(_text(row), f" {letter}"), idx=n)
        for row in rows
        for n, letter in enumerate(LETTERS)
    ]


def _prompts(rows: list[dict[str, Any]], *, arguments: argparse.Namespace) -> list[Any]:
    """All write as many tokens as asked: nothing stops them but the end of the text."""
    from lm_eval.api.instance import Instance

    settings = {"until": [], "max_gen_toks": arguments.new_tokens, "do_sample": False}
    return [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(_text(row)[: 4 * PROMPT_TOKENS], dict(settings)),
            idx=0,
        )
        for row in rows[: arguments.prompts]
    ]


def _text(row: dict[str, Any]) -> str:
    return str(row["input"][-1]["content"]).strip() + "\nAnswer:"


def _native(
    arguments: argparse.Namespace, *, dtype: str, ask: Callable[[Any], Measured]
) -> Measured:
    import tempfile

    from megacpt.commands.model import one_rank
    from megacpt.config.compose import compose
    from megacpt.tokenizer import load_tokenizer

    config = compose([f"model.path={arguments.model.resolve()}", f"precision={dtype}"])
    with one_rank() as runtime, tempfile.TemporaryDirectory() as work:
        from megacpt.device.groups import initialise_parallel
        from megacpt.evaluate.benchmarks.calls import Model
        from megacpt.evaluate.benchmarks.engine import Engine
        from megacpt.evaluate.benchmarks.lm import NativeLM
        from megacpt.evaluate.journal import AnswerJournal
        from megacpt.families import read_architecture
        from megacpt.model.build import build_model
        from megacpt.model.weights import load_hf

        initialise_parallel(config.parallel, seed=1)
        architecture = read_architecture(arguments.model)
        chunks = build_model(
            architecture,
            parallel=config.parallel,
            precision=config.precision,
            kind=runtime.kind,
            sequence_length=architecture.max_positions,
        )
        load_hf(chunks, folder=arguments.model, architecture=architecture)
        tokenizer = load_tokenizer(arguments.model)
        engine = Engine.over(chunks, max_length=architecture.max_positions, decode=tokenizer.decode)
        journal = AnswerJournal(Path(work) / "answers.jsonl")
        return ask(NativeLM(Model(engine), tokenizer=tokenizer, journal=journal))


def _peer(arguments: argparse.Namespace, *, dtype: str, ask: Callable[[Any], Measured]) -> Measured:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32
    )
    return ask(
        HFLM(
            model,
            tokenizer=AutoTokenizer.from_pretrained(arguments.model),
            batch_size=arguments.batch,
            softmax_dtype=None if dtype == "bf16" else "float64",
        )
    )


if __name__ == "__main__":
    main()
