# SPDX-License-Identifier: Apache-2.0
"""Install other versions of transformers beside an environment:
``VENV/bin/python tools/install_readers.py FOLDER``.

Each comes into a folder of its own, with those of its dependencies whose versions the environment's
own transformers excludes. Put before the environment's packages (PYTHONPATH), it shares all others,
torch above all. Exits with 3 where nothing can be downloaded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

READERS = {
    "4.48.3": ("tokenizers==0.21.4", "huggingface-hub==0.36.0"),
    "4.57.6": ("tokenizers==0.22.2", "huggingface-hub==0.36.0"),
    "5.0.0": ("tokenizers==0.22.2", "huggingface-hub==1.3.4"),
}
"""The oldest that megacpt works with, the last 4, the first 5. The newest is already there."""
NO_NETWORK = 3
UNREACHABLE = ("No matching distribution", "NewConnectionError", "Temporary failure in name")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python tools/install_readers.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    wanted = [version for version in READERS if not (folder / version).exists()]
    # Most of the time one waits for the network and for the disk.
    started = {version: start(folder, version=version) for version in wanted}
    codes = [finish(folder, version=version, pip=pip) for version, pip in started.items()]
    return max(codes, default=0)


def start(folder: Path, *, version: str) -> subprocess.Popen[str]:
    print(f"Setup: transformers {version}", flush=True)
    aside = folder / f".{version}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    packages = (f"transformers=={version}", *READERS[version])
    return subprocess.Popen(
        [*pip, "--target", str(aside), *packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, *, version: str, pip: subprocess.Popen[str]) -> int:
    output, _ = pip.communicate()
    if pip.returncode == 0:
        (folder / f".{version}.partial").rename(folder / version)
        return 0
    print(output, file=sys.stderr)
    return NO_NETWORK if any(sign in output for sign in UNREACHABLE) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
