# SPDX-License-Identifier: Apache-2.0
"""Decisions about a step whose loss or gradient norm is not finite, or a spike.

Everything here is decided from values that all ranks share and from the steps before, both of
which a restart finds again: the recent values and the events lie in the checkpoint, a rollback also
in RUN_DIR/faults.jsonl before it begins. So a run that is killed at any moment and started again
goes the same way.

Steps keep their samples. A step that is skipped or passed over stays empty: the rate, the stages
and the data of all others are what they would have been.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from megacpt.config.sections import FaultPolicy, FaultsConfig
from megacpt.errors import TrainingFault
from megacpt.files import write_text
from megacpt.monitor.metrics import FaultRecord, FaultSample, json_safe
from megacpt.monitor.terminal import fault_value, sample_origin
from megacpt.train.guard.spikes import spike_threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A step's defect, and what the settings want done about it."""

    kind: str
    what: str
    value: float
    threshold: float | None
    policy: FaultPolicy


@dataclass(slots=True, kw_only=True)
class FaultState:
    """The past that decisions are made from; part of every checkpoint."""

    stage: str = ""
    """Stage of the recent values: another blend has other losses."""
    losses: list[float] = field(default_factory=list)
    """Values of the last good steps of the stage, at most ``spike_window_steps``."""
    grad_norms: list[float] = field(default_factory=list)
    """Values of the same steps."""
    updates: int = 0
    """Updates applied; the steps that are missing were skipped or passed over."""
    skipped_samples: dict[str, int] = field(default_factory=dict)
    """Samples of each source in those steps."""
    events: list[FaultRecord] = field(default_factory=list)
    """Rollbacks, and all others on the way to the present step."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FaultState:
        return cls(**content)

    def judge(
        self, *, loss: float, grad_norm: float, stage: str, config: FaultsConfig
    ) -> Fault | None:
        """Whether the update may be applied: None where it may."""
        values = {"loss": loss, "grad_norm": grad_norm}
        for what, value in values.items():
            if not math.isfinite(value):
                return Fault(
                    kind="nonfinite",
                    what=what,
                    value=value,
                    threshold=None,
                    policy=config.nonfinite,
                )
        is_known = stage == self.stage and len(self.losses) >= config.spike_min_steps
        if config.spike is FaultPolicy.ignore or not is_known:
            return None
        for what, recent in {"loss": self.losses, "grad_norm": self.grad_norms}.items():
            threshold = spike_threshold(recent, z=config.spike_z)
            if values[what] > threshold:
                return Fault(
                    kind="spike",
                    what=what,
                    value=values[what],
                    threshold=threshold,
                    policy=config.spike,
                )
        return None

    def count_good(self, *, loss: float, grad_norm: float, stage: str, window: int) -> None:
        """The step's update was applied."""
        if stage != self.stage:
            self.stage, self.losses, self.grad_norms = stage, [], []
        self.losses = [*self.losses, loss][-window:]
        self.grad_norms = [*self.grad_norms, grad_norm][-window:]
        self.updates += 1

    def count_skipped(self, samples: Mapping[str, int]) -> None:
        """The step's samples were not trained on."""
        for name, count in samples.items():
            self.skipped_samples[name] = self.skipped_samples.get(name, 0) + count

    def passing(self, step: int) -> FaultRecord | None:
        """The rollback that wants ``step`` passed over."""
        found = (event for event in self.events if step in event["passed_steps"])
        return next(found, None)

    def lr_factor(self, step: int) -> float:
        """Product over all rollbacks to a step before ``step``."""
        return math.prod(
            event["lr_factor"]
            for event in self.events
            if event["restart_step"] is not None and event["restart_step"] < step
        )

    def decide(
        self,
        fault: Fault,
        *,
        step: int,
        restart_step: int,
        sources: Mapping[str, int],
        nonfinite_samples: int,
        samples: Sequence[FaultSample],
        config: FaultsConfig,
    ) -> FaultRecord:
        """The event; ``restart_step`` is that of the newest checkpoint, or 0."""
        every_sample = nonfinite_samples == sum(sources.values())
        reason = self._reason_to_stop(
            fault, step=step, restart_step=restart_step, every_sample=every_sample, config=config
        )
        policy = FaultPolicy.stop if reason else fault.policy
        rolls_back = policy is FaultPolicy.rollback
        first_passed = max(restart_step, step - config.rollback_skip_steps) + 1
        return {
            "step": step,
            "kind": fault.kind,
            "what": fault.what,
            "value": as_number(fault.value),
            "threshold": fault.threshold,
            "policy": policy.name,
            "reason": reason,
            "restart_step": restart_step if rolls_back else None,
            "passed_steps": list(range(first_passed, step + 1)) if rolls_back else [],
            "lr_factor": config.rollback_lr_factor if rolls_back else 1.0,
            "sources": dict(sources),
            "nonfinite_samples": nonfinite_samples,
            "samples": list(samples),
        }

    def _reason_to_stop(
        self,
        fault: Fault,
        *,
        step: int,
        restart_step: int,
        every_sample: bool,
        config: FaultsConfig,
    ) -> str:
        if fault.policy is FaultPolicy.stop:
            return f"faults.{fault.kind}=stop asks for it"
        first = step - config.spike_window_steps
        recent = [event for event in self.events if first < event["step"] <= step]
        if len(recent) >= config.max_events:
            return (
                f"{len(recent)} faults within {config.spike_window_steps} steps came before it, "
                f"and faults.max_events={config.max_events} allows no more"
            )
        if fault.policy is FaultPolicy.rollback and self._came_back(
            fault, step=step, restart_step=restart_step, every_sample=every_sample
        ):
            return (
                f"it came back after the rollback to step {restart_step}, so the samples that were "
                "passed over are not the cause"
            )
        return ""

    def _came_back(self, fault: Fault, *, step: int, restart_step: int, every_sample: bool) -> bool:
        """At or before the step that was rolled back, or at the next one in every sample: then it
        is the weights. In some samples of the next one it may be more of the same bad text."""
        last = step - 1 if every_sample else step
        return any(
            event["restart_step"] == restart_step
            and event["kind"] == fault.kind
            and last <= event["step"]
            for event in self.events
        )


def as_number(value: float) -> float | str:
    """JSON has no NaN or infinity, and here they are what it is all about."""
    return value if math.isfinite(value) else str(value)


def stop(event: FaultRecord, *, run_dir: str) -> TrainingFault:
    """The error that says what happened, why the run ends, and what can be done."""
    fault = fault_value(event)
    worst = event["samples"][:1]
    sample = f" The worst sample is {sample_origin(worst[0])}." if worst else ""
    return TrainingFault(
        f"step {event['step']}: {fault}; its update was not applied and the run ends, because "
        f"{event['reason']}.{sample} {run_dir}/faults.jsonl has the samples. Nothing was written "
        f"over: to go on from the last checkpoint, {_remedy(event)}, then start the same command "
        "again."
    )


def _remedy(event: FaultRecord) -> str:
    if "came back" in event["reason"]:
        return (
            "lower optim.lr_peak; or, where the checkpoint itself is bad, move the newest folder "
            "of checkpoints away"
        )
    if "max_events" in event["reason"]:
        return "look at the data these samples come from, lower optim.lr_peak or raise the limit"
    return (
        f"fix or drop the source of these samples, or set faults.{event['kind']}=rollback or skip"
    )


def merged(events: Sequence[FaultRecord], *, written: Sequence[FaultRecord]) -> list[FaultRecord]:
    """Those of a checkpoint, and the rollbacks that were written since.

    What else was written since will happen again.
    """
    since = [e for e in written if e["policy"] == "rollback" and e not in events]
    return [*events, *since]


def read_events(path: Path) -> list[FaultRecord]:
    """RUN_DIR/faults.jsonl; it is replaced whole, so every line is."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_events(path: Path, *, events: Sequence[FaultRecord]) -> None:
    """Durable when it returns. A run without faults has no file."""
    if events or path.exists():
        lines = (json.dumps(json_safe(e), ensure_ascii=False, allow_nan=False) for e in events)
        write_text(path, text="".join(line + "\n" for line in lines))


def normal(event: FaultRecord) -> FaultRecord:
    """The event as it will be read back, so that events compare equal wherever they come from."""
    return cast(FaultRecord, json.loads(json.dumps(event)))
