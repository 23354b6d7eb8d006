# SPDX-License-Identifier: Apache-2.0
"""A fork is what a new interpreter would be: the system says so, and it computes the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.forked import PYTHON
from tests.test_run_on_ranks import is_running

pytestmark = pytest.mark.skipif(
    sys.executable == PYTHON, reason="forks are for ranks on the CPU of a Linux machine"
)
PROGRAM = """
import json, os, signal, sys, threading, time
from pathlib import Path
from megacpt.device import environment, variables

sys.stderr.write("said\\n")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "pid": os.getpid(),
    "parent": os.getppid(),
    "group": os.getpgrp(),
    "session": os.getsid(0),
    "folder": os.getcwd(),
    "words": sys.argv[1:],
    "name": __name__,
    "variables": {name: os.environ.get(name) for name in ("ONE", "TWO", "HOME")},
    "before": {"ONE"} <= environment.AT_START == variables.AT_START,
    "is_new": abs(time.time() - environment.STARTED_AT) < 60,
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "ignored": status["SigIgn"],
    "blocked": status["SigBlk"],
    "threads": threading.active_count(),
    "read": sys.stdin.read(),
    "files": sorted(map(int, os.listdir("/proc/self/fd"))),
}))
sys.exit(os.environ.get("CODE"))
"""
SETTINGS = ["schedule.steps=3", "schedule.warmup_steps=1", "evaluate.every_steps=100"]


def start(python: str, folder: Path, *, code: str = "pass", **options: Any) -> Any:
    """A process of a module of its own."""
    (folder / "told.py").write_text(code)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "ONE": "1", "TWO": "a=b"}
    environment |= options.pop("variables", {})
    command = ["env", "-u", "HOSTNAME", "CODES=0", python, "-m", "told", "a b", "c"]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **(pipes | options))


@pytest.mark.parametrize(
    "options",
    [{}, {"start_new_session": True}, {"process_group": 0}, {"variables": {"CODE": "7 is wrong"}}],
    ids=["plain", "session", "group", "code"],
)
def test_it_begins_and_ends_as_a_new_interpreter_does(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    found = []
    for python in (PYTHON, sys.executable):
        process = start(python, tmp_path, code=PROGRAM, **options)
        output, errors = process.communicate("typed", timeout=60)
        said = json.loads(output) | {"errors": errors, "code": process.returncode}
        assert said.pop("pid") == process.pid
        for name in ("group", "session"):
            said[name] = said[name] == process.pid
        found.append(said)
    assert found[0] == found[1]
    assert found[0]["parent"] == os.getpid()
    assert found[0]["code"] == int("variables" in options)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_is_sent_signals(tmp_path: Path, number: signal.Signals) -> None:
    code = "import time\nprint('ready', flush=True)\ntime.sleep(600)"
    ends = []
    for python in (PYTHON, sys.executable):
        process = start(python, tmp_path, code=code)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        ends.append((process.returncode, errors.splitlines()[-1:]))
    # A new interpreter that is interrupted ends itself by the signal, once it has cleaned up.
    assert ends[0] == ends[1] or (number, ends[0][1]) == (signal.SIGINT, ends[1][1])


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """As with one whose parent it became by exec."""
    code = (
        "import os, sys, time\nfrom megacpt.device.environment import die_with_parent\n"
        "die_with_parent()\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    parent = (
        "import subprocess, sys\nfrom tests.forked import PYTHON\n"
        "child = subprocess.Popen([PYTHON, '-m', 'told'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nsys.stdin.read()"
    )
    (tmp_path / "told.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    child = int(process.stdout.readline())
    os.kill(child, 0)
    process.kill()
    process.communicate()
    stop_at = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < stop_at
        time.sleep(0.02)


def test_what_imports_have_read_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="HF_HOME"):
        start(PYTHON, tmp_path, variables={"HF_HOME": str(tmp_path)})


@pytest.mark.mcore
@pytest.mark.slow
def test_a_run_of_forks_has_the_same_bits(tmp_path: Path) -> None:
    found = []
    for name, python in (("forked", PYTHON), ("new", sys.executable)):
        words = ["train", "experiment=tiny", f"run_dir={tmp_path / name}", *SETTINGS]
        subprocess.run([python, "-m", "megacpt", *words], check=True, timeout=300)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        found.append([(r.get("loss"), r.get("grad_norm"), r.get("heldout")) for r in records])
    assert found[0] == found[1]


def test_one_that_cannot_begin_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="could not begin"):
        subprocess.run([PYTHON, "-m", "told"], cwd=tmp_path / "nowhere")
    process = start(PYTHON, tmp_path, code="print('the next one can')")
    assert process.communicate(timeout=60)[0] == "the next one can\n"
