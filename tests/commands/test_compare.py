# SPDX-License-Identifier: Apache-2.0
"""The verb compare, on folders as training leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt import cli
from megacpt.config.compose import read_run_yaml
from tests.monitor.sample_run import STEPS, records, write_evaluation, write_run


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "lora" / "run", tmp_path / "full" / "run"]
    for seed, folder in enumerate(folders):
        config = write_run(folder, run=records())
        write_evaluation(folder, config=config, step=STEPS, suites=True, seed=seed)
    return folders


def test_two_runs_are_shown_and_written(
    two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert cli.main(["compare", *map(str, two_runs), "--output", str(page)]) == 0
    said = capsys.readouterr().out
    assert "mmlu retention" in said
    assert "candidates against each other, item by item" in said
    *table, wrote, _ = said.splitlines()
    assert max(map(len, table)) <= 80
    assert wrote == f"Wrote {page}"
    # Both folders are called run, so they are told apart by what stands before it.
    for text in (said, page.read_text()):
        assert "lora/run" in text
        assert "full/run" in text


def test_scores_of_another_checkpoint_are_left_out(
    two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training has measured a later step since the second was evaluated."""
    config = read_run_yaml(two_runs[1] / "run.yaml")
    write_evaluation(two_runs[1], config=config, step=STEPS - 20, suites=True)
    assert cli.main(["compare", *map(str, two_runs), "--output", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert "mmlu retention" in said
    assert "item by item" not in said


def test_one_run_or_one_twice_is_refused(
    two_runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for folders in ([two_runs[0]], [two_runs[0], two_runs[0]]):
        assert cli.main(["compare", *map(str, folders)]) == 2
        assert "takes 2 run folders or more, each once" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(
    two_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(two_runs[0]), str(tmp_path / "nothing")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
