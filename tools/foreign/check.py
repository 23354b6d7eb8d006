# SPDX-License-Identifier: Apache-2.0
"""Read what the real Megatron-Bridge and DeepSpeed have saved, and compare bit for bit.

    .venv/bin/python tools/foreign/check.py --python python3.12 FOLDER

Makes an environment in FOLDER (Python 3.12, 7 GB, kept for the next time) and small random models,
and lets Megatron-Bridge 0.6.2 import and DeepSpeed 0.19.8 train them on this machine's CPUs.
Bridge's checkpoints must hold the weights of the Hugging Face folders, DeepSpeed's what its own
zero_to_fp32 makes of them. Exit code 1 where one does not; 3 where nothing can be downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from megacpt.convert.opened import open_source

HERE = Path(__file__).parent
PACKAGES = (
    *("torch==2.13.0", "megatron-core==0.19.2", "transformers==5.12.1", "accelerate==1.15.0"),
    *("datasets", "einops", "hjson", "hydra-core", "msgpack", "ninja", "omegaconf", "peft"),
    *("psutil", "py-cpuinfo", "pydantic", "rich", "safetensors", "setuptools", "six", "tqdm"),
)
ALONE = ("megatron-bridge==0.6.2", "deepspeed==0.19.8")
"""Without what they ask for beside: GPU kernels, trackers, other modalities."""
NO_NETWORK = 3
SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "norm_topk_prob": True,
    "head_dim": 16,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "head_dim": 16},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3-moe": {"model_type": "qwen3_moe", **EXPERTS},
    "mistral": {"model_type": "mistral", "sliding_window": None},
}
ZERO = {"llama-3": ("llama", 3, 2), "tied-3": ("llama-tied", 3, 3), "qwen2-2": ("qwen2", 2, 2)}
"""Name -> model, stage, ranks."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--python", default="python3.12", help="a Python 3.12 (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    if code := install(folder / "venv", python=options.python):
        return code
    shutil.rmtree(folder / "made", ignore_errors=True)
    write_models(folder / "made/hf")
    same = [check_bridge(folder, name=name) for name in MODELS]
    same += [check_deepspeed(folder, name=name) for name in ZERO]
    return 0 if all(same) else 1


def install(venv: Path, *, python: str) -> int:
    if (venv / "complete").exists():
        return 0
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "-q"]
    commands = [
        [python, "-m", "venv", str(venv)],
        [*pip, *PACKAGES],
        [*pip, "--no-deps", "--no-build-isolation", *ALONE],
    ]
    for command in commands:
        print("Setup:", " ".join(command), flush=True)
        if subprocess.run(command).returncode != 0:
            return NO_NETWORK
    (venv / "complete").touch()
    return 0


def write_models(folder: Path) -> None:
    """Norms and biases random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    for name, changes in MODELS.items():
        torch.manual_seed(1)
        config = AutoConfig.for_model(**(SIZES | changes))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for key, param in model.named_parameters():
            if param.dim() == 1:
                param.data.normal_(1.0 if "norm" in key else 0.0, 0.5)
        model.save_pretrained(folder / name)


def check_bridge(folder: Path, *, name: str) -> bool:
    base, output = folder / "made/hf" / name, folder / "made/bridge" / name
    command = [str(HERE / "by_bridge.py"), str(base), str(output), str(_free_port())]
    run(folder, command=command, log=f"bridge-{name}")
    return same(
        f"Megatron-Bridge {name}", saved=output, base=base, expected=base / "model.safetensors"
    )


def check_deepspeed(folder: Path, *, name: str) -> bool:
    model, stage, ranks = ZERO[name]
    base, output = folder / "made/hf" / model, folder / "made/deepspeed" / name
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
    torchrun += [f"--master_port={_free_port()}", str(HERE / "by_deepspeed.py")]
    run(folder, command=[*torchrun, str(base), str(output), str(stage)], log=f"deepspeed-{name}")
    return same(
        f"DeepSpeed ZeRO-{stage} {model}, {ranks} ranks",
        saved=output,
        base=base,
        expected=output / "by_deepspeed.safetensors",
    )


def run(folder: Path, *, command: list[str], log: str) -> None:
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment |= {"TORCH_EXTENSIONS_DIR": str(folder / "extensions"), "PYTHONPATH": ""}
    path = folder / "made" / f"{log}.log"
    with path.open("w") as output:
        done = subprocess.run(
            [str(folder / "venv/bin/python"), *command],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {path}")


def same(what: str, *, saved: Path, base: Path, expected: Path) -> bool:
    started_at = time.perf_counter()
    source = open_source(saved, base=base)
    found = {name: tensor.whole() for name, tensor in source.tensors.items()}
    elapsed_s = time.perf_counter() - started_at
    wanted: Mapping[str, torch.Tensor] = load_file(expected)
    # DeepSpeed puts a tied head beside the embedding.
    tied = {name for name in wanted.keys() - found.keys() if name == "lm_head.weight"}
    equal = found.keys() | tied == wanted.keys() and all(
        torch.equal(tensor, wanted[name]) and tensor.dtype == wanted[name].dtype
        for name, tensor in found.items()
    )
    said = "equal bit for bit" if equal else "DIFFERENT"
    print(f"{what:38} {len(found):4} tensors {elapsed_s:6.2f} s  {said}", flush=True)
    return equal


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
