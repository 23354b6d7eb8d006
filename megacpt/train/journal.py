# SPDX-License-Identifier: Apache-2.0
"""Where the record of a step goes: RUN_DIR/metrics.jsonl, the terminal, wandb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from megacpt.config.sections import RunConfig
from megacpt.device.environment import has_secret
from megacpt.monitor.metrics import FaultRecord, MetricsLog, StepRecord
from megacpt.monitor.terminal import Terminal
from megacpt.monitor.wandb import WandbRun
from megacpt.plan.precision import quantises


class Journal:
    """Opened on the first rank only, at the step the run goes on from."""

    def __init__(
        self,
        config: RunConfig,
        *,
        resolved: Mapping[str, Any],
        start_step: int,
        is_new: bool,
        arithmetic: str,
    ) -> None:
        """``is_new``: the first model is measured (again), so no record is kept.

        ``arithmetic``: the precision in words (megacpt.plan.precision).
        """
        run_dir = Path(config.run_dir)
        self._path = run_dir / "metrics.jsonl"
        self._log = _open_log(self._path, step=start_step, is_new=is_new)
        base = self._log.kept[0] if self._log.kept else None
        self._label = {"arithmetic": arithmetic} if quantises(config.precision) else {}
        self._progress = Terminal(
            config.schedule.steps,
            log_every_steps=config.monitor.log_every_steps,
            start_step=start_step,
            base=base,
            title=self._label.get("arithmetic"),
        )
        self._wandb = WandbRun.start(
            run_dir,
            config={**resolved, "arithmetic": arithmetic},
            monitor=config.monitor,
            has_api_key=has_secret("WANDB_API_KEY"),
            records=self._log.kept,
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """The file first: it is what a report and a resume are made from."""
        step_record = cast(StepRecord, {**record, **self._label})
        self._log.log(step_record)
        self._progress.update(step_record)
        self._wandb.log(step_record)

    def announce(self, event: FaultRecord) -> None:
        """A rollback begins; its record comes when the run is there again."""
        self._progress.announce(event)

    def rewind(self, step: int, *, is_new: bool) -> None:
        """Go on from an earlier ``step``; wandb keeps what it has."""
        self._log.close()
        self._log = _open_log(self._path, step=step, is_new=is_new)
        self._progress.rewind(step)

    def close(self, *, failed: bool) -> None:
        self._progress.close()
        self._log.close()
        self._wandb.finish(exit_code=1 if failed else 0)


def _open_log(path: Path, *, step: int, is_new: bool) -> MetricsLog:
    return MetricsLog(path, resume_after_step=None if is_new else step)
