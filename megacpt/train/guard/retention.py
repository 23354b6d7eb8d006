# SPDX-License-Identifier: Apache-2.0
"""The end of a run that loses what its base model can: ``evaluate.gate.action=stop``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.config.declared import roles
from megacpt.config.sections import GateAction, RunConfig
from megacpt.device.collective import from_first_rank
from megacpt.errors import TrainingFault
from megacpt.evaluate.suite_gate import SuiteCheck, sure_drops
from megacpt.evaluate.suites import benchmarks
from megacpt.text import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionGuard:
    config: RunConfig

    def fault(self, record: Mapping[str, Any], *, step: int) -> TrainingFault | None:
        """What ends the run after ``step``, whose ``record`` says whether suites were measured; a
        collective call. The last step ends it anyway: there the gate judges."""
        is_last = step == self.config.schedule.steps
        if self.config.evaluate.gate.action is not GateAction.stop or is_last:
            return None
        if "benchmarks" not in record and "forgetting" not in record:
            return None
        words = from_first_rank(lambda: self._words(record, step=step))
        return TrainingFault(words) if words else None

    def _words(self, record: Mapping[str, Any], *, step: int) -> str:
        lost = [self._dropped(step)] if "benchmarks" in record else []
        if "forgetting" in record:
            lost.append(self._forgotten(record["forgetting"]))
        found = [words for words in lost if words]
        return _end_words(listed(found), step=step) if found else ""

    def _forgotten(self, nats: float) -> str:
        limit = self.config.evaluate.gate.stop_forgetting_nats
        if limit is None or nats < limit:
            return ""
        return (
            f"{nats:+.4f} nats a token on {self.config.evaluate.general} "
            f"(evaluate.gate.stop_forgetting_nats is {limit:g})"
        )

    def _dropped(self, step: int) -> str:
        suites = benchmarks(
            Path(self.config.run_dir), roles=roles(self.config), final=f"step-{step}"
        )
        drops = sure_drops(suites, gate=self.config.evaluate.gate, seed=self.config.seed)
        return listed(map(_drop_words, drops)) if drops else ""


def _drop_words(drop: SuiteCheck) -> str:
    return (
        f"{drop.suite} by {-drop.difference_points:.1f} points "
        f"({drop.low_points:+.1f} to {drop.high_points:+.1f})"
    )


def _end_words(found: str, *, step: int) -> str:
    return (
        f"Ended after step {step}: retention has dropped, {found}, and evaluate.gate.action is "
        "stop. Start another run with a lower optim.lr_peak or a larger data.replay.share; the "
        "newest checkpoint stays as it is."
    )
