# SPDX-License-Identifier: Apache-2.0
"""Pages faulted in by a process that takes and frees many blocks again and again, as steps do."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKS, BLOCK_BYTES = 16, 2**24
PROGRAM = f"""
import resource, sys, torch
from megacpt.device.cpu.host_memory import keep_freed
if sys.argv[1] == "keep" and not keep_freed():
    sys.exit(3)
def touch():
    for _ in range(3):
        blocks = [torch.ones({BLOCK_BYTES // 4}) for _ in range({BLOCKS})]
        del blocks
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


def faulted_bytes(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=False
    )
    if done.returncode == 3:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_blocks_are_not_faulted_in_again() -> None:
    kept = faulted_bytes("keep")
    assert kept < BLOCK_BYTES / 4
    # How much glibc gives back by itself depends on what lies at the end of its heap.
    assert kept <= faulted_bytes("as_ever")
