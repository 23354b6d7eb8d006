# SPDX-License-Identifier: Apache-2.0
"""The facts are those of this machine, and cost no import of torch."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

from megacpt.monitor.environment import commit_of, installed_versions, processor, write_environment


def test_facts_of_this_machine(tmp_path: Path) -> None:
    write_environment(tmp_path, device="CPU, 2 threads", ranks=1)
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["python"] == platform.python_version()
    assert facts["versions"].keys() >= {"megacpt", "torch", "megatron-core", "transformers"}
    assert facts["device"] == "CPU, 2 threads"
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0.5


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from megacpt.monitor.environment import environment\n"
        "environment(device='', ranks=1); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_not_installed_is_left_out() -> None:
    assert "no-such-package" not in installed_versions(("no-such-package", "numpy"))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_of_a_tracked_file_tells_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(file) == commit
    file.write_text("2")
    assert commit_of(file) == f"{commit}+changes"


def test_a_file_that_no_repository_tracks_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    assert commit_of(tmp_path / "a.py") is None
    git(tmp_path, "init", "-q")
    assert commit_of(tmp_path / "a.py") is None


def test_processor_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n")
    assert processor(tmp_path / "cpuinfo") == "Fast CPU @ 3 GHz"
    assert processor(tmp_path / "absent")
