# SPDX-License-Identifier: Apache-2.0
"""On a rank of test_benchmarks.py: train, then evaluate, each run in its folder of WORK_DIR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.rank import rank_on_cpu
from tests.train.curves import parity_config
from tests.train.warm_starts import train


def train_and_evaluate(work: Path, runs: dict[str, dict[str, Any]]) -> None:
    from contextlib import nullcontext

    with rank_on_cpu(timeout_minutes=10) as started:
        from megatron.core import parallel_state

        from megacpt.evaluate.run import evaluate

        for name, settings in runs.items():
            train(work, started, name, settings)
            config = parity_config(work, settings)
            config.run_dir = str(work / name)
            evaluate(config, runtime=started, watched=nullcontext(), beat=lambda: None)
            parallel_state.destroy_model_parallel()
