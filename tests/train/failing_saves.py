# SPDX-License-Identifier: Apache-2.0
"""Runs whose saves fail, inside a mount namespace of their own.

The folder of checkpoints is a small file system, which is full or read-only at times. Each case is
one function below; what it found goes to WORK_DIR/NAME.json.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.train import forks
from tests.train.asked_saves import Found, Settings, found

MIB = 2**20
CASES = "full_for_a_while full_for_good read_only stops_at_once full_at_the_end no_permission"
CAPABILITY_VERSION = 0x20080522
"""Of capset(2), which takes a header of two words and six words of flags."""


def run_cases(work: Path, cases: dict[str, Any]) -> None:
    for name in CASES.split():
        settings = json.loads(json.dumps(cases["settings"])) | {"run_dir": str(work / name)}
        (work / f"{name}.json").write_text(json.dumps(globals()[name](settings)))


def checkpoints_of(settings: Settings) -> Path:
    return Path(settings["run_dir"]) / "checkpoints"


def mount(settings: Settings) -> Path:
    """8 MiB; a checkpoint has about half of one."""
    root = checkpoints_of(settings)
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(root)], check=True)
    return root


def fill(root: Path) -> None:
    """More than a checkpoint is thought to need, less than this small one needs with its names."""
    (root / "filler").write_bytes(bytes(8 * MIB - 500_000 - used(root)))


def used(root: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in root.rglob("*"))


def begun(settings: Settings) -> list[int]:
    """A run that has published its first checkpoint."""
    root, children = checkpoints_of(settings), forks.start(settings)
    assert forks.wait_for(lambda: bool(list(root.glob("step_*"))), child=children[0])
    return children


def wait_for_words(settings: Settings, words: str, *, times: int, child: int) -> None:
    log = Path(settings["run_dir"]) / "rank_0.log"
    forks.wait_for(lambda: log.read_text().count(words) >= times, child=child)


def result(settings: Settings, codes: list[int]) -> Found:
    newest = sorted(checkpoints_of(settings).glob("step_*"))
    return found(settings, codes) | {"whole": [is_whole(folder) for folder in newest]}


def is_whole(folder: Path) -> bool:
    from megacpt.checkpoint import verify

    return verify.full(folder) == []


def full_for_a_while(settings: Settings) -> Found:
    """Room comes back after the first failure: no checkpoint is lost but that one."""
    root = mount(settings)
    children = begun(settings)
    fill(root)
    wait_for_words(settings, "could not be written", times=1, child=children[0])
    (root / "filler").unlink()
    return result(settings, forks.wait(children))


def full_for_good(settings: Settings) -> Found:
    root = mount(settings)
    children = begun(settings)
    fill(root)
    return result(settings, forks.wait(children))


def read_only(settings: Settings) -> Found:
    root = mount(settings)
    children = begun(settings)
    remount(root)
    return result(settings, forks.wait(children))


def remount(root: Path) -> None:
    """Refused while a file is open for writing."""
    stop_at = time.monotonic() + 30
    command = ["mount", "-o", "remount,ro", str(root)]
    while subprocess.run(command, capture_output=True).returncode:
        assert time.monotonic() < stop_at


def stops_at_once(settings: Settings) -> Found:
    settings["checkpoint"]["on_error"] = "stop"
    return read_only(settings)


def full_at_the_end(settings: Settings) -> Found:
    """A single save, the last: its failure is the run's."""
    settings["checkpoint"]["every_steps"] = 1000
    settings["schedule"]["steps"] = 4
    fill(mount(settings))
    first = result(settings, forks.run(settings))
    (checkpoints_of(settings) / "filler").unlink()
    return first | {"then": result(settings, forks.run(settings))}


def no_permission(settings: Settings) -> Found:
    """The last case: root, which may write anywhere, becomes an owner like all others."""
    root = checkpoints_of(settings)
    root.mkdir(parents=True)
    if ctypes.CDLL(None, use_errno=True).capset(
        (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    ):
        raise OSError(ctypes.get_errno(), "capset")
    children = begun(settings)
    root.chmod(0o500)
    outcome = result(settings, forks.wait(children))
    root.chmod(0o700)
    return outcome
