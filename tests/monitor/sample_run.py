# SPDX-License-Identifier: Apache-2.0
"""A run folder such as training leaves behind: 120 steps, two sources, two held-out sets."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np

from megacpt.config.compose import write_run_yaml
from megacpt.config.declared import gate_fingerprint
from megacpt.config.sections import (
    DataConfig,
    EvaluateConfig,
    GateConfig,
    HeldoutConfig,
    ModelConfig,
    ReplayConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
)
from megacpt.evaluate.items import write_scores
from megacpt.evaluate.judged import judged
from megacpt.evaluate.suite_gate import Role, Suite
from megacpt.monitor.environment import write_environment
from megacpt.monitor.metrics import FaultRecord, HeldoutLoss, MetricsLog, StepRecord
from tests.evaluate.statistics.suites import Truth, scores_of

STEPS = 120
PROMPTS = {
    "The LORD is my shepherd; I shall not": (
        "be afraid of the dark. I shall not be afraid of the dark.",
        "want. How sweet is this assurance to the believer: all his needs are known above,\n"
        "and <b>not one</b> & no other is forgotten.",
    ),
    "Fellow citizens, the state of our Union": (
        "is strong. The state of our economy is strong, and our people are working.",
        "is strong. The state of our economy is strong, and our people are at work.",
    ),
}


def run_config(run_dir: Path) -> RunConfig:
    shard = SourceConfig(prefix="/data/shard")
    heldout = HeldoutConfig(prefix="/data/heldout")
    return RunConfig(
        run_dir=str(run_dir),
        model=ModelConfig(path="/models/SmolLM2-135M"),
        data=DataConfig(
            sources={"psalms": shard, "speeches": shard},
            replay=ReplayConfig(source="speeches", share=0.25),
        ),
        schedule=ScheduleConfig(steps=STEPS, warmup_steps=6),
        evaluate=EvaluateConfig(
            heldout={"speeches": heldout, "psalms": heldout},
            domain="psalms",
            general="speeches",
            every_steps=20,
            gate=GateConfig(domain_perplexity_ratio_max=0.92, general_perplexity_ratio_max=1.02),
        ),
    )


def heldout_at(step: int) -> dict[str, HeldoutLoss]:
    gained, forgotten = 0.21 * (1 - math.exp(-step / 40)), 0.012 * (1 - math.exp(-step / 60))
    return {
        name: {"loss": loss, "perplexity": math.exp(loss), "tokens": 19_968}
        for name, loss in (("psalms", 3.627 - gained), ("speeches", 3.367 + forgotten))
    }


def records(*, steps: int = STEPS) -> list[StepRecord]:
    noise = random.Random(7)
    base: StepRecord = {
        "step": 0,
        "heldout": heldout_at(0),
        "generations": [{"prompt": p, "text": texts[0]} for p, texts in PROMPTS.items()],
    }
    return [base, *[training_record(step, noise=noise) for step in range(1, steps + 1)]]


def training_record(step: int, *, noise: random.Random) -> StepRecord:
    cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 6) / (STEPS - 6)))
    psalms = 3.6 - 0.25 * (1 - math.exp(-step / 40)) + noise.gauss(0, 0.08)
    speeches = 3.36 + noise.gauss(0, 0.1)
    record: StepRecord = {
        "step": step,
        "loss": 0.75 * psalms + 0.25 * speeches,
        "loss_per_source": {"psalms": psalms, "speeches": speeches},
        "tokens_per_source": {"psalms": step * 6 * 511, "speeches": step * 2 * 511},
        "samples_per_source": {"psalms": step * 6, "speeches": step * 2},
        "grad_norm": 0.9 + 1.4 * math.exp(-step / 8) + abs(noise.gauss(0, 0.12)),
        "lr": 2e-5 * (step / 6 if step <= 6 else cosine),
        "tokens": step * 8 * 511,
        "tokens_per_s": 1480 + noise.gauss(0, 45),
        "mfu": 0.41,
        "step_s": 2.76,
        "elapsed_s": step * 2.76,
        "peak_memory_gib": 3.4,
    }
    if step % 20 == 0:
        record["heldout"] = heldout_at(step)
        record["forgetting"] = heldout_at(step)["speeches"]["loss"] - 3.367
    if step == STEPS:
        record["generations"] = [{"prompt": p, "text": texts[1]} for p, texts in PROMPTS.items()]
    return record


def fault_event(*, step: int, policy: str) -> FaultRecord:
    """A NaN in one of eight samples."""
    rolls_back = policy == "rollback"
    return {
        "step": step,
        "kind": "nonfinite",
        "what": "loss",
        "value": "nan",
        "threshold": None,
        "policy": policy,
        "reason": "",
        "restart_step": 40 if rolls_back else None,
        "passed_steps": list(range(step - 3, step + 1)) if rolls_back else [],
        "lr_factor": 0.5 if rolls_back else 1.0,
        "sources": {"psalms": 6, "speeches": 2},
        "nonfinite_samples": 1,
        "samples": [
            {
                "source": "psalms",
                "position": 5,
                "loss": "nan",
                "documents": [{"document": 812, "first_token": 40, "tokens": 513}],
                "excerpt": "Selah \x1b[2J <b>\ufffd\ufffd\ufffd</b> he that dwelleth " * 4,
            },
            {
                "source": "speeches",
                "position": 1,
                "loss": 3.4,
                "documents": [],
                "excerpt": "My fellow citizens",
            },
        ],
    }


def records_with_faults() -> list[StepRecord]:
    """A gradient spike skipped at step 30, steps 55 to 58 passed over after a rollback."""
    found = records()
    spike = fault_event(step=30, policy="skip")
    spike |= {"kind": "spike", "what": "grad_norm", "value": 81.25, "threshold": 4.2}
    found[30]["fault"] = spike
    for record in found[30:]:
        record["skipped_samples_per_source"] = {"psalms": 6, "speeches": 2}
    for record in found[55:59]:
        for key in ("loss", "loss_per_source", "grad_norm", "lr"):
            del record[key]  # type: ignore[misc]
        record["passed_over"] = True
    found[58]["fault"] = fault_event(step=58, policy="rollback")
    for record in found[1:]:
        record["rank_times"] = {
            "median_s": 2.4,
            "slowest_s": 4.1 if record["step"] > 90 else 2.5,
            "slowest_rank": 13,
            "slowest_host": "node07",
            "straggles": record["step"] > 90,
        }
    for step, write_s in ((41, 9.5), (83, 10.5)):
        found[step]["checkpoint_write_s"] = write_s
        found[step]["checkpoint_stall_s"] = 0.75
    return found


def write_run(run_dir: Path, *, run: list[StepRecord]) -> RunConfig:
    config = run_config(run_dir)
    write_run_yaml(config, path=run_dir / "run.yaml")
    log = MetricsLog(run_dir / "metrics.jsonl", resume_after_step=None)
    for record in run:
        log.log(record)
    log.close()
    write_environment(run_dir, device="CPU, 2 threads", ranks=1)
    return config


SUITES = {
    "hellaswag": (Role.retention, Truth(clusters=3_000, flips=0.08, difference=-0.004)),
    "mmlu": (
        Role.retention,
        Truth(clusters=57, size=20, flips=0.15, difference=-0.01, alike=0.03, uneven=True),
    ),
    "psalm_quiz": (Role.gain, Truth(clusters=800, flips=0.2, difference=0.09)),
    "letters": (Role.usefulness, Truth(clusters=60, flips=0.2, difference=0.02)),
}


def write_evaluation(
    run_dir: Path, *, config: RunConfig, step: int, suites: bool = False, seed: int = 1
) -> None:
    """``suites``: also items of three layers."""
    heldout = {
        name: {"base": base, "final": heldout_at(step)[name]}
        for name, base in heldout_at(0).items()
    }
    measured = {
        name: _suite(name, role=role, truth=truth, seed=seed)
        for name, (role, truth) in (SUITES.items() if suites else ())
    }
    for name, suite in measured.items():
        kind = "usefulness" if suite.role is Role.usefulness else "benchmarks"
        for label, scores in (("base", suite.base), ("final", suite.final)):
            write_scores(run_dir / kind / label / f"{name}.jsonl", scores=scores)
    result = judged(config, heldout=heldout, suites=measured, declared=gate_fingerprint(config))
    evaluation = {"step": step, "heldout": heldout, **result}
    (run_dir / "evaluation.json").write_text(json.dumps(evaluation))


def _suite(name: str, *, role: Role, truth: Truth, seed: int) -> Suite:
    """Base and final scores; the run's text was cleaned of one's items and not of the other's."""
    base, final = scores_of(truth.draw(np.random.default_rng(seed)), suite=name)
    return Suite(role=role, base=base, final=final, decontaminated=name != "mmlu")


def write_certificate(run_dir: Path) -> None:
    certificate = {
        "certified": True,
        "max_abs_difference": 3.1e-5,
        "max_abs_logit": 21.4,
        "argmax_agreement": 1.0,
        "tolerance": 1e-4,
        "prompts": [{"text": "a b", "tokens": 18}, {"text": "c d", "tokens": 17}],
        "versions": {"transformers": "5.23.0"},
        "files": {"model.safetensors": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15"},
    }
    (run_dir / "hf").mkdir()
    (run_dir / "hf" / "certificate.json").write_text(json.dumps(certificate))
