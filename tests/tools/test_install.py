# SPDX-License-Identifier: Apache-2.0
"""The installer names what is missing in one sentence, and starts over after an interruption."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "install.py"
INSTALLER = runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("NewConnectionError('...: [Errno -2] Name or service", "package index cannot be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "has no torch==2.13.0 for"),
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("The virtual environment ... ensurepip is not available", "apt-get install python3-venv"),
        ("error: command '/usr/bin/g++' failed with exit code 1", "does not compile"),
        ("first\nlast words\n", "The step failed: last words"),
        ("", "it said nothing"),
    ],
)
def test_causes_are_explained(log: str, sentence: str) -> None:
    explained = INSTALLER["explain"](log)
    assert sentence in explained
    assert "\n" not in explained


def test_a_network_that_fails_is_not_called_a_missing_package() -> None:
    log = "NewConnectionError(...)\nERROR: No matching distribution found for torch==2.13.0"
    assert "cannot be reached" in INSTALLER["explain"](log)


def test_an_unfinished_environment_starts_over() -> None:
    fresh = INSTALLER["steps"](Path(".venv"), fresh=True)
    again = INSTALLER["steps"](Path(".venv"), fresh=False)
    assert fresh[0][1][1:3] == ["-m", "venv"]
    assert len(again) == len(fresh) - 1


def test_a_half_made_environment_is_ours_to_empty(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    INSTALLER["begin"](venv)
    (venv / "half").touch()
    assert INSTALLER["ours"](venv)
    INSTALLER["begin"](venv)
    assert not (venv / "half").exists()


def test_the_environment_of_another_is_never_cleared(tmp_path: Path) -> None:
    other = tmp_path / "mine" / "precious.txt"
    other.parent.mkdir()
    other.write_text("kept")
    command = [sys.executable, str(SCRIPT), str(other.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "was not made by this command" in done.stderr
    assert other.read_text() == "kept"


def test_torch_comes_first_by_an_exact_pin() -> None:
    first = INSTALLER["steps"](Path(".venv"), fresh=False)[0][1]
    assert first[-1] == INSTALLER["pinned"]("torch")
    assert first[-1].startswith("torch==")


def test_a_failed_step_leaves_no_stamp(tmp_path: Path) -> None:
    """A package index that nobody serves: one sentence, exit code 2, and not called installed."""
    venv = tmp_path / "venv"
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    unset = {"PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"}
    environment = {k: v for k, v in os.environ.items() if k not in unset} | closed
    done = subprocess.run(
        [sys.executable, SCRIPT, venv], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The Python package index cannot be reached")
    assert not (venv / ".installed").exists()


def test_a_missing_compiler_is_found_before_anything_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "venv"],
        env={"PATH": os.environ["PATH"], "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "The C++ compiler no-such-compiler is missing" in done.stderr
    assert not (tmp_path / "venv").exists()
