# SPDX-License-Identifier: Apache-2.0
"""`megacpt launch` and `megacpt logs`: what they print and what comes next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megacpt.cli import main

WORDS = ("experiment=tiny", "cluster=slurm", "cluster.device=cpu")


def test_a_dry_run_prints_the_script_and_loads_no_torch() -> None:
    code = (
        "import sys; from megacpt.cli import main\n"
        f"assert main(['launch', *{WORDS!r}, '--dry-run']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("#!/bin/bash\n")
    assert f"\npython={sys.executable} " in done.stdout


def test_a_launch_says_how_to_watch_stop_and_extend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 4711\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["launch", *WORDS, "run_dir=law"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Job 4711 is queued: law/train.sbatch\n")
    assert "echo save_and_exit > law/request" in said
    assert said.endswith("Next: tail -F law/logs/train.log\n")
    assert max(map(len, said.splitlines())) <= 80


def test_the_script_by_hand_gets_the_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["launch", "--prepare-only", "2", *WORDS, f"run_dir={tmp_path}/law"]
    assert main([*words, "parallel.dp=2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/law\n"
    assert (tmp_path / "law" / "run.yaml").exists()
    assert main(words) == 2
    assert "2" in capsys.readouterr().err


def test_logs_show_the_first_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "law" / "logs"
    logs.mkdir(parents=True)
    assert main(["logs", str(logs.parent)]) == 0
    assert capsys.readouterr().out.startswith("No rank has left an error.\n")
    for rank, kind in ((0, "peer"), (1, "user")):
        report = {"rank": rank, "time": 1.0, "kind": kind, "exit_code": 2, "message": f"by {rank}"}
        text = json.dumps({**report, "traceback": "", "slurm": None})
        (logs / f"rank_{rank}.error.json").write_text(text)
    (logs / "rank_1.log").touch()
    assert main(["logs", str(logs.parent)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["The first error of the last start:", "Error: by 1"]
    assert said[2].endswith("law/logs: rank_1.log")


def test_logs_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(tmp_path)]) == 2
    assert "has no logs" in capsys.readouterr().err
