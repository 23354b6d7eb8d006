# SPDX-License-Identifier: Apache-2.0
"""Build Transformer Engine into an environment: ``VENV/bin/python tools/install_te.py``.

For an environment that tools/install.py made with Python 3.12 or newer, whose torch is a CUDA
build. No GPU is needed, nvcc of CUDA 13 is; 15 to 25 minutes on one core. With ``--library-path``
only the folders are printed in which the loader has to find CUDA's libraries.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

TE_VERSION = "2.20.2"
PACKAGES = (
    f"transformer-engine=={TE_VERSION}",
    f"transformer-engine-cu13=={TE_VERSION}",
    "nvidia-ml-py",
    "pybind11",
    "ninja",
    "wheel",
)
CUDA_HOME = "/usr/local/cuda-13.0"
NVIDIA = Path(sysconfig.get_path("purelib")) / "nvidia"


def main(arguments: list[str]) -> int:
    if arguments == ["--library-path"]:
        print(folders("lib"))
        return 0
    cuda = Path(os.environ.get("CUDA_HOME", CUDA_HOME))
    if not (cuda / "bin" / "nvcc").exists():
        print(
            f"Error: Transformer Engine is compiled with nvcc, which {cuda}/bin lacks; set "
            "CUDA_HOME to an installation of CUDA 13.",
            file=sys.stderr,
        )
        return 2
    install = [sys.executable, "-m", "pip", "install", "-q", "-c", "constraints.txt"]
    print(f"Setup: Transformer Engine {TE_VERSION} (15 to 25 minutes on one core)", flush=True)
    subprocess.run([*install, *PACKAGES], check=True)
    # Its extension is compiled against the torch that is installed, not one of its own.
    variables = {"CPATH": folders("include"), "CUDA_HOME": str(cuda), "NVTE_FRAMEWORK": "pytorch"}
    subprocess.run(
        [*install, "--no-build-isolation", f"transformer-engine-torch=={TE_VERSION}"],
        env={"MAX_JOBS": "1", **os.environ, **variables},
        check=True,
    )
    check = [sys.executable, "-c", "import transformer_engine.pytorch"]
    subprocess.run(check, env=os.environ | {"LD_LIBRARY_PATH": folders("lib")}, check=True)
    return 0


def folders(kind: str) -> str:
    """``lib`` or ``include`` of every NVIDIA package, as search paths have them."""
    return os.pathsep.join(str(folder) for folder in sorted(NVIDIA.glob(f"*/{kind}")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
