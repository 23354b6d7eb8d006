# SPDX-License-Identifier: Apache-2.0
"""What a run's files say, as the one dictionary that report.json holds and report.html shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from megacpt.config.declared import DECLARED_LATE, declares_limit
from megacpt.config.hub_model import named
from megacpt.config.sections import RunConfig
from megacpt.errors import DataError
from megacpt.monitor.layers import ReportLayer, layers
from megacpt.monitor.metrics import (
    FaultRecord,
    Generation,
    HeldoutLoss,
    RankTimes,
    StepRecord,
)
from megacpt.plan.plan import shares
from megacpt.text import listed

LAST_PART = 0.1
"""The final training loss is the mean over this last part of the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """A run folder, read. ``None``: the file is not there (yet)."""

    name: str
    config: RunConfig
    config_tree: Mapping[str, Any]
    records: Sequence[StepRecord]
    plan: Mapping[str, Any] | None
    environment: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    certificate: Mapping[str, Any] | None


class HeldoutChange(TypedDict, total=False):
    """``final`` and ``ratio`` (of perplexities) are absent until something was trained."""

    role: str
    base: HeldoutLoss
    final: HeldoutLoss
    ratio: float


class MixRow(TypedDict):
    """One source: shares of the samples, asked and achieved. ``epochs``: None if unknown."""

    source: str
    replay: bool
    asked: float
    achieved: float
    samples: int
    tokens: int
    epochs: float | None
    loss_first: float | None
    loss_last: float | None


class Gate(TypedDict):
    """``verdict``: passed, failed, not enough items, not declared, or not checked."""

    verdict: str
    note: str
    checks: list[Mapping[str, Any]]


class PromptTexts(TypedDict):
    """One prompt; ``final`` is empty while there is only the base model's text."""

    prompt: str
    base: str
    final: str


class SaveTotals(TypedDict):
    """Checkpoints published, and for how long training stood still for them in all."""

    published: int
    stall_s: float


class Summary(TypedDict):
    """report.json."""

    run: str
    model: str
    complete: bool
    steps: int
    steps_planned: int
    headline: str
    heldout: dict[str, HeldoutChange]
    heldout_source: str
    forgetting: float | None
    gate: Gate
    layers: list[ReportLayer]
    """Suites of items, by what they are measured for; empty where none was measured."""
    tokens: int
    tokens_per_source: dict[str, int]
    samples_per_source: dict[str, int]
    skipped_samples_per_source: dict[str, int]
    faults: list[FaultRecord]
    rank_times: RankTimes | None
    """Over the last steps; None for one rank."""
    tokens_per_s: float | None
    mfu: float | None
    elapsed_s: float | None
    peak_memory_gib: float | None
    saves: SaveTotals
    data_mix: list[MixRow]
    generations: list[PromptTexts]
    generations_step: int | None
    plan: Mapping[str, Any] | None
    environment: Mapping[str, Any] | None
    certificate: Mapping[str, Any] | None
    config: Mapping[str, Any]


def summarise(files: RunFiles) -> Summary:
    trained = [r for r in files.records if "loss" in r or r.get("passed_over", False)]
    last: StepRecord = trained[-1] if trained else {"step": 0}
    evaluation = current_evaluation(files.evaluation, records=files.records)
    heldout = heldout_changes(files, evaluation=evaluation)
    tokens_per_source = last.get("tokens_per_source", {})
    return {
        "run": files.name,
        "model": (named(files.config.model.path) or "").rstrip("/").rpartition("/")[2],
        "complete": last["step"] >= files.config.schedule.steps,
        "steps": last["step"],
        "steps_planned": files.config.schedule.steps,
        "headline": headline(heldout, steps=last["step"]),
        "heldout": heldout,
        "heldout_source": _heldout_source(evaluation, records=files.records),
        "forgetting": forgetting(heldout),
        "gate": gate(files, evaluation=evaluation),
        "layers": layers(evaluation),
        "tokens": last.get("tokens", sum(tokens_per_source.values())),
        "tokens_per_source": tokens_per_source,
        "samples_per_source": last.get("samples_per_source", {}),
        "skipped_samples_per_source": last.get("skipped_samples_per_source", {}),
        "faults": [record["fault"] for record in files.records if "fault" in record],
        "rank_times": last.get("rank_times"),
        "tokens_per_s": tokens_per_s(trained),
        "mfu": _median(trained, key="mfu"),
        "elapsed_s": last.get("elapsed_s"),
        "peak_memory_gib": max((r.get("peak_memory_gib") or 0.0 for r in trained), default=None),
        "saves": saves(files.records),
        "data_mix": data_mix(files, trained=trained),
        **_generations(files.records),
        "plan": files.plan,
        "environment": files.environment,
        "certificate": files.certificate,
        "config": files.config_tree,
    }


def up_to(files: RunFiles, *, step: int) -> RunFiles:
    """As the run was when it had taken ``step`` steps."""
    evaluation = files.evaluation
    return replace(
        files,
        records=[record for record in files.records if record["step"] <= step],
        evaluation=evaluation if evaluation and evaluation["step"] == step else None,
    )


def measured(records: Sequence[StepRecord]) -> list[StepRecord]:
    """Records with held-out losses; the first is the untouched base model."""
    found = [record for record in records if record.get("heldout")]
    if found and found[0]["step"] != 0:
        raise DataError(
            f"metrics.jsonl has held-out losses from step {found[0]['step']} on, but none of the "
            "untouched base model at step 0; start the run again in an empty run_dir"
        )
    return found


def current_evaluation(
    evaluation: Mapping[str, Any] | None, *, records: Sequence[StepRecord]
) -> Mapping[str, Any] | None:
    """evaluation.json (whole held-out sets), unless training has measured a later step since."""
    found = measured(records)
    if evaluation is None or (found and evaluation["step"] < found[-1]["step"]):
        return None
    return evaluation


def heldout_changes(
    files: RunFiles, *, evaluation: Mapping[str, Any] | None
) -> dict[str, HeldoutChange]:
    """Set -> base and final losses, the domain's set first, the general one second."""
    if evaluation is not None:
        pairs = {name: (p["base"], p["final"]) for name, p in evaluation["heldout"].items()}
    else:
        pairs = _pairs(measured(files.records))
    roles = {files.config.evaluate.domain: "domain", files.config.evaluate.general: "general"}
    order = {"domain": 0, "general": 1, "": 2}
    names = sorted(pairs, key=lambda name: order[roles.get(name, "")])
    return {
        name: _change(base, final=final, role=roles.get(name, ""))
        for name, (base, final) in ((name, pairs[name]) for name in names)
        if base is not None
    }


def _pairs(found: Sequence[StepRecord]) -> dict[str, tuple[Any, Any]]:
    if not found:
        return {}
    base, last = found[0], found[-1]
    final = last["heldout"] if last["step"] > 0 else {}
    return {name: (losses, final.get(name)) for name, losses in base["heldout"].items()}


def _change(base: HeldoutLoss, *, final: HeldoutLoss | None, role: str) -> HeldoutChange:
    change: HeldoutChange = {"role": role, "base": base}
    if final is not None:
        change["final"] = final
        if final["loss"] is not None and base["loss"] is not None:
            change["ratio"] = math.exp(min(final["loss"] - base["loss"], 700.0))
    return change


def forgetting(heldout: Mapping[str, HeldoutChange]) -> float | None:
    """General loss, final minus base, in nats a token."""
    general = next((c for c in heldout.values() if c["role"] == "general" and "ratio" in c), None)
    return None if general is None else general["final"]["loss"] - general["base"]["loss"]


def headline(heldout: Mapping[str, HeldoutChange], *, steps: int) -> str:
    """What was gained and what was forgotten, in one sentence."""
    if steps == 0:
        return "Nothing is trained yet: only the base model was measured."
    if not heldout:
        return "Nothing is known of gain and forgetting: the run has no held-out set."
    parts = [_clause(name, change=change) for name, change in heldout.items() if "final" in change]
    if not parts:
        return "Gain and forgetting are not known yet: only the base model was measured."
    text = listed(parts)
    return text[0].upper() + text[1:] + "."


def _clause(name: str, *, change: HeldoutChange) -> str:
    subject = f"{change['role'] or name} perplexity"
    if "ratio" not in change:
        return f"{subject} is no number any more (the run diverged)"
    percent = abs(change["ratio"] - 1) * 100
    if percent < 0.05:
        return f"{subject} stayed the same"
    if change["ratio"] >= 3:
        return f"{subject} rose {change['ratio']:.3g}-fold"
    return f"{subject} {'fell' if change['ratio'] < 1 else 'rose'} by {percent:.1f}%"


def gate(files: RunFiles, *, evaluation: Mapping[str, Any] | None) -> Gate:
    if not declares_limit(files.config.evaluate.gate):
        return _unjudged(
            "not declared",
            note="No limit was declared before training, so there is nothing to pass.",
        )
    if evaluation is None:
        stale = "; evaluation.json is of an earlier step" if files.evaluation else ""
        return _unjudged(
            "not checked",
            note=f"Limits are declared but not checked yet: run megacpt evaluate{stale}.",
        )
    checks = [check for check in evaluation["gate"] if check["verdict"] != "not declared"]
    suites = [check for check in evaluation.get("suites", []) if check["limit_points"] is not None]
    if not checks and not suites:
        return _unjudged(
            "not checked",
            note="Limits are declared, but evaluation.json is from before: run megacpt evaluate.",
        )
    verdict = _worst(check["verdict"] for check in (*checks, *suites))
    late = f" The gate was {DECLARED_LATE}." if evaluation.get("declared_late") else ""
    return {"verdict": verdict, "note": _NOTES[verdict] + late, "checks": checks}


def _unjudged(verdict: str, *, note: str) -> Gate:
    return {"verdict": verdict, "note": note, "checks": []}


_NOTES = {
    "passed": "Every limit declared before training holds.",
    "failed": "A limit declared before training does not hold.",
    "not enough items": "No limit is exceeded for sure, but suites have not enough items to say "
    "that all hold.",
}


def _worst(verdicts: Iterable[str]) -> str:
    found = set(verdicts)
    return next((v for v in ("failed", "not enough items") if v in found), "passed")


def tokens_per_s(trained: Sequence[StepRecord]) -> float | None:
    """Over all training steps, without the time of evaluation and checkpoints."""
    seconds = sum(record.get("step_s") or 0.0 for record in trained)
    if not seconds or "tokens" not in trained[-1]:
        return _median(trained, key="tokens_per_s")
    return trained[-1]["tokens"] / seconds


def saves(records: Sequence[StepRecord]) -> SaveTotals:
    """The last one of a run is published after its last record, so it is not known here."""
    return {
        "published": sum("checkpoint_write_s" in record for record in records),
        "stall_s": sum(record.get("checkpoint_stall_s") or 0.0 for record in records),
    }


def data_mix(files: RunFiles, *, trained: Sequence[StepRecord]) -> list[MixRow]:
    """The blend asked for beside what was fed, with the loss of each source at both ends."""
    replay = files.config.data.replay
    last: StepRecord = trained[-1] if trained else {"step": 0}
    samples, tokens = last.get("samples_per_source", {}), last.get("tokens_per_source", {})
    total = sum(samples.values())
    available = _available_tokens(files.plan)
    asked_of = _asked(files, steps=last["step"] or files.config.schedule.steps)
    return [
        {
            "source": name,
            "replay": replay is not None and replay.source == name,
            "asked": asked,
            "achieved": samples.get(name, 0) / total if total else 0.0,
            "samples": samples.get(name, 0),
            "tokens": tokens.get(name, 0),
            "epochs": tokens.get(name, 0) / available[name] if available.get(name) else None,
            "loss_first": _loss_of(name, records=trained[: _part(trained)]),
            "loss_last": _loss_of(name, records=trained[-_part(trained) :]),
        }
        for name, asked in sorted(asked_of.items(), key=lambda item: -item[1])
    ]


def _asked(files: RunFiles, *, steps: int) -> dict[str, float]:
    """Shares of the first ``steps``, by the plan: it knows the stages a resumed run has had."""
    stages = (files.plan or {}).get("stages")
    if not stages:
        return shares(files.config.data, steps=steps)
    asked = dict.fromkeys(files.config.data.sources, 0.0)
    for stage in stages:
        done = min(max(steps - stage["from_step"], 0), stage["steps"])
        for name, share in stage["shares"].items():
            asked[name] += share * stage["global_batch_size"] * done
    return {name: samples / sum(asked.values()) for name, samples in asked.items()}


def _part(trained: Sequence[StepRecord]) -> int:
    return max(1, round(len(trained) * LAST_PART))


def _loss_of(source: str, *, records: Sequence[StepRecord]) -> float | None:
    losses = [record.get("loss_per_source", {}).get(source) for record in records]
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None


def _available_tokens(plan: Mapping[str, Any] | None) -> dict[str, int]:
    sources = plan["sources"] if plan is not None else ()
    return {source["name"]: source["available_tokens"] for source in sources}


def _median(trained: Sequence[StepRecord], *, key: str) -> float | None:
    values = sorted(v for r in trained if isinstance(v := r.get(key), float | int))
    return values[len(values) // 2] if values else None


def _heldout_source(evaluation: Mapping[str, Any] | None, *, records: Sequence[StepRecord]) -> str:
    if evaluation is not None:
        return f"measured by megacpt evaluate on the whole sets after step {evaluation['step']:,}"
    found = measured(records)
    if not found:
        return "not measured"
    step = found[-1]["step"]
    return f"measured in training after step {step:,}" if step else "measured on the base model"


class _Samples(TypedDict):
    generations: list[PromptTexts]
    generations_step: int | None


def _generations(records: Sequence[StepRecord]) -> _Samples:
    """Every prompt once, the untouched base model's text beside the latest."""
    found = [record for record in records if record.get("generations")]
    if not found:
        return {"generations": [], "generations_step": None}
    base = _texts(found[0]["generations"]) if found[0]["step"] == 0 else {}
    latest = found[-1] if found[-1]["step"] > 0 else None
    final = _texts(latest["generations"]) if latest is not None else {}
    prompts = list(dict.fromkeys([*base, *final]))
    return {
        "generations": [
            {"prompt": p, "base": base.get(p, ""), "final": final.get(p, "")} for p in prompts
        ],
        "generations_step": latest["step"] if latest is not None else None,
    }


def _texts(generations: Sequence[Generation]) -> dict[str, str]:
    return {generation["prompt"]: generation["text"] for generation in generations}
