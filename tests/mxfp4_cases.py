# SPDX-License-Identifier: Apache-2.0
"""A small gpt-oss whose experts are four-bit numbers, laid out as the published folders are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.family_cases.gpt_oss import CASES

QUANTISED = {
    "modules_to_not_convert": [
        *("model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"),
    ],
    "quant_method": "mxfp4",
}
LAYERS, EXPERTS, HIDDEN, FFN = 4, 4, 64, 32
MATRICES = {"gate_up_proj": (2 * FFN, HIDDEN), "down_proj": (HIDDEN, FFN)}
"""Outputs and inputs."""


def write_four_bits(folder: Path) -> None:
    """In two files, some blocks in another than their scales."""
    CASES["as-published"].write(folder)
    tensors = {n: t.bfloat16() for n, t in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    generator = torch.Generator().manual_seed(3)
    for layer in range(LAYERS):
        for matrix, (outputs, inputs) in MATRICES.items():
            name = f"model.layers.{layer}.mlp.experts.{matrix}"
            del tensors[name]
            shape = (EXPERTS, outputs, inputs // 32)
            blocks = torch.randint(0, 256, (*shape, 16), generator=generator)
            # Numbers of up to 6 times 2^-6 to 2^-4.
            scales = torch.randint(121, 124, shape, generator=generator)
            tensors[f"{name}_blocks"] = blocks.to(torch.uint8)
            tensors[f"{name}_scales"] = scales.to(torch.uint8)
    write_in_two_files(tensors, folder=folder)
    path = folder / "config.json"
    stated = json.loads(path.read_text()) | {"quantization_config": QUANTISED, "dtype": "bfloat16"}
    path.write_text(json.dumps(stated))


def write_in_two_files(tensors: dict[str, torch.Tensor], *, folder: Path) -> None:
    names = sorted(tensors)
    half = next(n for n in range(len(names) // 2, len(names)) if names[n - 1].endswith("_blocks"))
    weight_map = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}
