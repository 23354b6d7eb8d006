# SPDX-License-Identifier: Apache-2.0
"""Rows of the suites' table; that wandb keeps them is in test_wandb.py."""

from __future__ import annotations

import json
from pathlib import Path

from megacpt.monitor.wandb_suites import COLUMNS, suite_rows
from tests.monitor.sample_run import STEPS, records, write_evaluation, write_run


def test_a_row_a_suite_in_the_order_of_the_columns(tmp_path: Path) -> None:
    config = write_run(tmp_path, run=records())
    write_evaluation(tmp_path, config=config, step=STEPS, suites=True)
    checks = json.loads((tmp_path / "evaluation.json").read_text())["suites"]
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in suite_rows(checks)]
    assert [row["suite"] for row in rows] == ["hellaswag", "mmlu", "psalm_quiz", "letters"]
    assert all(row["low_points"] <= row["difference_points"] <= row["high_points"] for row in rows)
