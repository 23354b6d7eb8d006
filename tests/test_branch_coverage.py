# SPDX-License-Identifier: Apache-2.0
"""The figure that `make test COVERAGE=1` prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys


def test_branches_are_counted_in_workers_by_room() -> None:
    command = ["-p", "tests.branch_coverage", "-n", "1", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *command, "tests/test_text.py"],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MEGACPT_COV"))},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rooms = re.findall(r"^ +([\d.]+)% of +([\d,]+)  (.+)$", ended.stdout, re.MULTILINE)
    shares = {room: float(share) for share, _, room in rooms}
    assert shares["text.py"] > 80
    assert shares["train"] == 0
    total = re.search(r"taken: [\d.]+% of ([\d,]+)$", ended.stdout, re.MULTILINE)
    assert total, ended.stdout
    counted = sum(int(count.replace(",", "")) for _, count, _ in rooms)
    assert counted == int(total.group(1).replace(",", ""))
