# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from megacpt.preflight.facts import WRITE_BYTES, measure_disk


def test_a_folder_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    found = measure_disk(tmp_path, total_bytes=2 * WRITE_BYTES)
    assert found.problem == ""
    assert found.written_mib_s > 0
    assert found.free_gib == pytest.approx(shutil.disk_usage(tmp_path).free / 2**30, abs=4)
    assert found.clock_ahead_s == 0.0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    assert measure_disk(tmp_path / "no").problem == "No such file or directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize(
    ("options", "problem"),
    [("size=1m", "No space left on device"), ("ro", "Read-only file system")],
)
def test_a_full_and_a_read_only_one(tmp_path: Path, options: str, problem: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(tmp_path)], check=True)
    try:
        assert measure_disk(tmp_path).problem == problem
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
