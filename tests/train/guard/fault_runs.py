# SPDX-License-Identifier: Apache-2.0
"""Runs with something bad in their data: a model with one broken embedding row, and garbage.

The text is of eight letters, which a model of two layers learns within a few steps, so that a
sample of other letters stands out. Token 200 is broken: its row of the embedding is infinite, as of
a token whose row was never trained and overflowed. Where it occurs, the loss is NaN.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from megacpt.shards.reader import write_shard
from tests.run_on_ranks import run_on_ranks
from tests.support import LLAMA, write_model_folder

LETTERS = 97 + np.arange(8)
GARBAGE = 210 + np.arange(40)
BROKEN_TOKEN = 200
BAD_STEP = 20
SHAPE = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48}


def write_inputs(work: Path, *, seed: int = 5) -> None:
    """A model folder and the shards letters, garbage and broken; ``seed``: of the weights."""
    write_model_folder(work / "model", **SHAPE)
    save_file(_weights(seed), work / "model" / "model.safetensors", metadata={"format": "pt"})
    rng = np.random.default_rng(3)
    letters = [rng.choice(LETTERS, size=60) for _ in range(80)]
    _write(work / "letters", letters)
    _write(work / "garbage", [rng.choice(GARBAGE, size=60) for _ in range(20)])
    poisoned = [document.copy() for document in letters[:20]]
    for document in poisoned:
        document[30] = BROKEN_TOKEN
    _write(work / "broken", poisoned)


def _write(prefix: Path, documents: list[np.ndarray]) -> None:
    write_shard(prefix, documents=documents, vocab_size=LLAMA["vocab_size"])


def _weights(seed: int) -> dict[str, torch.Tensor]:
    """A random Llama of SHAPE, with one infinite row."""
    shape = LLAMA | SHAPE
    hidden, ffn, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    kv = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return 0.08 * torch.randn(rows, columns, generator=generator)

    weights = {"model.embed_tokens.weight": matrix(vocab, hidden)}
    weights["model.embed_tokens.weight"][BROKEN_TOKEN] = torch.inf
    for n in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        for name, rows in {"q": hidden, "k": kv, "v": kv, "o": hidden}.items():
            weights[f"{layer}.self_attn.{name}_proj.weight"] = matrix(rows, hidden)
        weights[f"{layer}.mlp.gate_proj.weight"] = matrix(ffn, hidden)
        weights[f"{layer}.mlp.up_proj.weight"] = matrix(ffn, hidden)
        weights[f"{layer}.mlp.down_proj.weight"] = matrix(hidden, ffn)
        weights[f"{layer}.input_layernorm.weight"] = torch.ones(hidden)
        weights[f"{layer}.post_attention_layernorm.weight"] = torch.ones(hidden)
    return weights | {
        "model.norm.weight": torch.ones(hidden),
        "lm_head.weight": matrix(vocab, hidden),
    }


def settings(work: Path, *, run: str, bad: str, **faults: Any) -> dict[str, Any]:
    """A run of 24 steps; of source ``bad`` there is one sample, in BAD_STEP."""
    return {
        "run_dir": str(work / run),
        "model": {"path": str(work / "model"), "allow_unhealthy": True},
        "data": {
            "sources": {
                "letters": {"prefix": str(work / "letters"), "weight": 0.9875},
                bad: {"prefix": str(work / bad), "weight": 0.0125},
            },
            "sequence_length": 32,
            "global_batch_size": 4,
            "micro_batch_size": 1,
        },
        "precision": {"dtype": "fp32"},
        "optim": {"lr_peak": 1e-2},
        "schedule": {"steps": 24, "warmup_steps": 2},
        "checkpoint": {"every_steps": 6, "keep_last": 20},
        "monitor": {"wandb": "disabled", "log_every_steps": 100},
        "evaluate": {"every_steps": 100},
        "cluster": {"device": "cpu", "threads_per_rank": 1, "timeout_minutes": 2.0},
        "faults": {
            "spike_z": 6.0,
            "spike_window_steps": 10,
            "spike_min_steps": 6,
            "rollback_skip_steps": 2,
            **faults,
        },
    }


def train_all(work: Path, runs: dict[int, list[dict[str, Any]]]) -> None:
    """World size -> settings of runs that are trained one after another in one start of ranks.

    A setting ``cut`` is not the product's: see fault_loop.py.
    """
    for world, cases in runs.items():
        run_on_ranks("tests.train.guard.fault_loop:train_runs", work, world=world, cases=cases)


def records(run_dir: Path) -> list[dict[str, Any]]:
    """One a step, from 0 on; each exactly once."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [record["step"] for record in found] == list(range(len(found)))
    return found


def curve(run_dir: Path) -> list[tuple[Any, ...]]:
    """What must not depend on kills: everything of a step but its times."""
    times = ("step_s", "elapsed_s", "tokens_per_s", "mfu", "data_wait_s", "peak_memory_gib")
    times += ("checkpoint_stall_s", "checkpoint_write_s")
    return [
        tuple((k, v) for k, v in sorted(record.items()) if k not in (*times, "rank_times"))
        for record in records(run_dir)
    ]


def outcome(run_dir: Path) -> dict[str, Any]:
    """What the worker found at the end: error, hash of the weights."""
    found: dict[str, Any] = json.loads((run_dir / "outcome.json").read_text())
    return found
