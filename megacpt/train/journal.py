# SPDX-License-Identifier: Apache-2.0
"""Where the record of a step goes: RUN_DIR/metrics.jsonl, the terminal, wandb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from megacpt.config.sections import RunConfig
from megacpt.device.environment import has_secret
from megacpt.monitor.metrics import MetricsLog, StepRecord
from megacpt.monitor.terminal import Progress
from megacpt.monitor.wandb_run import WandbRun


class Journal:
    """Opened on the first rank only, at the step the run goes on from."""

    def __init__(self, config: RunConfig, *, resolved: Mapping[str, Any], start_step: int) -> None:
        run_dir = Path(config.run_dir)
        self._log = MetricsLog(
            run_dir / "metrics.jsonl", resume_after_step=start_step if start_step > 0 else None
        )
        base = self._log.kept[0] if self._log.kept else None
        self._progress = Progress(
            config.schedule.steps,
            log_every_steps=config.monitor.log_every_steps,
            start_step=start_step,
            base=base,
        )
        self._wandb = WandbRun.start(
            run_dir,
            config=resolved,
            monitor=config.monitor,
            has_api_key=has_secret("WANDB_API_KEY"),
            records=self._log.kept,
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """The file first: it is what a report and a resume are made from."""
        step_record = cast(StepRecord, record)
        self._log.log(step_record)
        self._progress.update(step_record)
        self._wandb.log(step_record)

    def close(self, *, failed: bool) -> None:
        self._progress.close()
        self._log.close()
        self._wandb.finish(exit_code=1 if failed else 0)
