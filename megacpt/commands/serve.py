# SPDX-License-Identifier: Apache-2.0
"""The verb that serves a model, to evaluate it and to try it."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from megacpt.commands.common import Verb, shown
from megacpt.commands.model import is_peft_folder, model_of_run, model_path
from megacpt.config.address import LOOPBACK
from megacpt.config.paths import RunFolder
from megacpt.errors import ConfigError, ModelError

PORT_MAX = 65535


def exported(run_dir: Path) -> Path:
    """What ``megacpt export`` has written of a run: its model or its adapter."""
    run = RunFolder(run_dir)
    found = [
        folder for folder in (run.export_of(adapter=a) for a in (False, True)) if folder.is_dir()
    ]
    if not found:
        raise ModelError(
            f"{run_dir} is a run that was not exported, so transformers cannot read it yet; "
            f"megacpt export {shown(run_dir)}"
        )
    return found[0]


def served_folder(name: str) -> tuple[Path, Path | None]:
    """The folder of a MODEL or RUN_DIR, and the base model where it is a run's adapter."""
    path = Path(name)
    if not RunFolder(path).run_yaml.is_file():
        is_adapter = is_peft_folder(path)
        return (path if is_adapter else model_path(name, weights=True)), None
    folder = exported(path)
    if not is_peft_folder(folder):
        return folder, None
    return folder, Path(str(model_of_run(path, weights=True).model.path))


def _serve(arguments: argparse.Namespace) -> int:
    from megacpt.device.quiet import quiet_libraries
    from megacpt.endpoint.client import key_of

    _require_sound(arguments)
    key = key_of(arguments.key_variable, setting="--key-variable")
    quiet_libraries()
    # They import torch, so only now.
    from megacpt.config.sections import DeviceKind, Dtype
    from megacpt.device.single import single_device
    from megacpt.serve.model import load_served
    from megacpt.serve.server import serving

    folder, base = served_folder(arguments.model)
    if arguments.base is not None:
        base = _base(arguments.base, folder=folder)
    served = load_served(
        folder,
        base=base,
        name=arguments.name or Path(arguments.model).absolute().name,
        device=single_device(DeviceKind[arguments.device]),
        dtype=Dtype[arguments.dtype],
    )
    place = {"host": arguments.host, "port": arguments.port, "key": key}
    with _until_ended(), serving(served, batch_max=arguments.batch, **place) as url:
        print(f"Serving {shown(folder)} as {served.name} at {url}", flush=True)
        if arguments.host not in LOOPBACK and not key:
            print(
                f"Note: whoever reaches {arguments.host} can use it; --key-variable NAME asks for "
                "a key.",
                file=sys.stderr,
            )
        print("Ctrl-C ends it.", flush=True)
        threading.Event().wait()
    print("Ended.")
    return 0


def _base(name: str, *, folder: Path) -> Path:
    if not is_peft_folder(folder):
        raise ConfigError(
            f"--base={name} is for an adapter, and {folder} is a whole model; leave it out."
        )
    return model_path(name, weights=True, argument="--base")


def _require_sound(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.port <= PORT_MAX:
        raise ConfigError(f"--port={arguments.port} is outside [0, {PORT_MAX}]; 8000 is usual.")
    if arguments.batch < 1:
        raise ConfigError(f"--batch={arguments.batch} is below 1; use 1 or more.")


@contextmanager
def _until_ended() -> Iterator[None]:
    """Until Ctrl-C, or the signal by which services are ended."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hugging Face folder or hub id, PEFT's folder of an adapter, or an exported RUN_DIR",
    )
    parser.add_argument("--base", metavar="MODEL", help="the model that an adapter is of")
    parser.add_argument("--name", help="what clients call the model (default: the folder's name)")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine")
    parser.add_argument(
        "--port", type=int, default=8000, help="default: %(default)s; 0: a free one"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="texts written at once (default: 16)"
    )
    parser.add_argument(
        "--key-variable", metavar="NAME", help="environment variable with a key requests must bring"
    )


SERVE = Verb(
    name="serve",
    summary="serve one model with the OpenAI interface, to evaluate and to try it",
    example="  megacpt serve runs/tiny/hf --port 8000\n"
    "  curl http://127.0.0.1:8000/v1/completions \\\n"
    "    -H 'Content-Type: application/json' \\\n"
    '    -d \'{"model": "hf", "prompt": "Once", "max_tokens": 20}\'\n'
    "It is for evaluations on one machine. In production, vLLM serves the folder:\n"
    "  vllm serve runs/tiny/hf",
    add_arguments=_arguments,
    run=_serve,
)
