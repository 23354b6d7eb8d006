# SPDX-License-Identifier: Apache-2.0
"""On a rank of test_retention.py: a run at a wild learning rate, and one at a sane one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.rank import rank_on_cpu
from tests.train.warm_starts import train


def train_until_it_drops(work: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Each rank says how its runs ended: the file NAME.RANK.txt."""
    with rank_on_cpu(timeout_minutes=10) as started:
        from megatron.core import parallel_state

        from megacpt.errors import TrainingFault

        for name, settings in runs.items():
            words = "to the end"
            try:
                train(work, started, name, settings)
            except TrainingFault as fault:
                words = str(fault)
                parallel_state.destroy_model_parallel()
            (work / f"{name}.{started.ranks.rank}.txt").write_text(words)
