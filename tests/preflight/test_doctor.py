# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.preflight.checks import CheckResult, Mark
from megacpt.preflight.doctor import diagnose, passes, screen


def test_one_screen_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 32
    checks = {line[6:18].strip() for line in lines if line[:4].strip() in ("ok", "warn")}
    assert checks >= {"Python", "megacpt", "packages", "CPU", "memory", "/dev/shm", "disk"}
    assert checks >= {"GPUs", "Slurm", "clock", "network", "open files"}
    assert list(tmp_path.iterdir()) == []


def test_what_fails_has_a_remedy_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tmp_path / "no")]) == 1
    shown = capsys.readouterr().out
    assert "FAIL  disk        " in shown
    assert "-> choose a folder with write permission and free space" in shown
    assert "1 FAIL" in shown
    assert "Next:" not in shown


def test_every_check_that_is_not_ok_has_a_remedy(tmp_path: Path) -> None:
    results = diagnose(tmp_path)
    assert all(result.remedy for result in results if result.mark is not Mark.ok)
    assert passes(results)


def test_the_screen_wraps_and_counts() -> None:
    long = "a value that is much too long for a single line of eighty columns, so it is wrapped"
    shown = screen(
        [
            CheckResult(
                check="one", mark=Mark.ok, value="fine", limit="not shown", remedy="neither"
            ),
            CheckResult(check="two", mark=Mark.warn, value=long, limit="less", remedy="fix it"),
        ]
    ).splitlines()
    assert shown[2] == "ok    one         fine"
    assert shown[3].startswith("warn  two         a value")
    assert shown[4].startswith(" " * 18)
    assert shown[-3:] == ["               -> fix it", "", "1 warn"]
    assert screen([]).splitlines()[-1] == "All is well."


def test_it_loads_no_torch_and_is_quick(tmp_path: Path) -> None:
    code = (
        "import sys; from megacpt.cli import main\n"
        f"main(['doctor', {str(tmp_path)!r}])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - started_s < 20


def test_part_of_slurm_is_a_warning(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "srun"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    shown = subprocess.run(
        [sys.executable, "-m", "megacpt", "doctor", str(tmp_path)],
        env={**os.environ, "PATH": str(tools), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "warn  Slurm       sbatch, srun, but not squeue, scancel, scontrol" in shown
