# SPDX-License-Identifier: Apache-2.0
"""A run's adapter as a folder for PEFT, with the proof that PEFT computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from megacpt.config.hub_model import HubModel
from megacpt.config.sections import Dtype
from megacpt.convert.adapters.extract import Extracted
from megacpt.convert.adapters.folder import (
    TENSORS,
    folder_settings,
    folder_tensors_of,
    require_names,
)
from megacpt.convert.adapters.live import live_model
from megacpt.convert.adapters.native import native_model
from megacpt.convert.adapters.plain import plain_lora
from megacpt.convert.by_transformers import load_transformers
from megacpt.convert.carried import carry_over
from megacpt.convert.certificate import CERTIFICATE, PACKAGES, TOLERANCE, write_certificate
from megacpt.convert.described import rewrite_tokenizer, write_json
from megacpt.convert.export import written_aside
from megacpt.convert.safetensors_files import write_file
from megacpt.convert.sources import SourceModel
from megacpt.families.peft_settings import PEFT_SETTINGS
from megacpt.tokenizer import load_tokenizer

EXTRACTED = "extract.json"
ROUNDED = 5e-2
"""Allowed where weights are rounded to bf16, as ``TOLERANCE``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftFolder:
    """What is to be written."""

    source: SourceModel
    """Of an adapter."""
    output: Path
    base_model: str | None
    """As the settings of the folder call it."""
    describe: Callable[..., object] = lambda folder, *, certified: None
    """Adds what says how the adapter came about."""


def base_name(folder: Path) -> str:
    """As another program finds the model from wherever it is started: on the hub, or its folder."""
    stored = HubModel.stored(str(folder))
    return stored.repo if stored else str(folder.absolute())


def export_adapter(wanted: PeftFolder) -> bool:
    """Write it; whether it could be certified, which takes PEFT itself."""
    has_peft = find_spec("peft") is not None
    mark = PEFT_SETTINGS if _is_ours(wanted.output) else CERTIFICATE
    with written_aside(wanted.output, mark=mark) as aside:
        write_peft(wanted.source, folder=aside, base_model=wanted.base_model)
        wanted.describe(aside, certified=has_peft)
        if has_peft:
            _certify(wanted, folder=aside)
    return has_peft


def _is_ours(folder: Path) -> bool:
    """By its card, where nobody could certify it: what others trained is not replaced."""
    card = folder / "README.md"
    return card.is_file() and b"\n- megacpt\n" in card.read_bytes()


def write_extracted(found: Extracted, *, output: Path, base_model: str) -> None:
    """PEFT's folder, and how near it is in ``extract.json``."""
    with written_aside(output, mark=EXTRACTED) as aside:
        write_peft(found.source, folder=aside, base_model=base_model)
        modules = {m.module: {"difference": m.difference, "error": m.error} for m in found.modules}
        content = {"error": found.error, "modules": modules, "left_out": found.others}
        write_json(aside / EXTRACTED, content=content)


def write_peft(source: SourceModel, *, folder: Path, base_model: str | None) -> None:
    """Settings, tensors, and what belongs to a tokenizer."""
    described_by = source.described_by
    trained = plain_lora(source)
    live = live_model(described_by, architecture=trained.architecture)
    settings = folder_settings(trained, live=live, base_model=base_model)
    tensors = folder_tensors_of(trained, live=live)
    carry_over(described_by, folder=folder)
    rewrite_tokenizer(folder)
    write_json(folder / PEFT_SETTINGS, content=settings)
    with source.proving():
        write_file(
            TENSORS,
            tensors={name: held.of_type(torch.float32) for name, held in tensors.items()},
            folder=folder,
        )


def load_peft(folder: Path, *, device: torch.device, base: Path) -> Any:
    """The adapter beside its base model in float32, as PEFT computes both. ``ModelError`` where a
    tensor is not what PEFT asks for, of which it would only warn."""
    from peft import PeftModel, get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_transformers(base, device=device), str(folder))
        asked = get_peft_model_state_dict(model, save_embedding_layers=False)
    with safe_open(str(folder / TENSORS), framework="pt") as file:
        require_names(file.keys(), wanted=asked, what=str(folder / TENSORS))
    return model.float().eval()


def _certify(wanted: PeftFolder, *, folder: Path) -> None:
    source = wanted.source
    chunks = native_model(source)
    write_certificate(
        chunks,
        architecture=source.architecture,
        folder=folder,
        tokenizer=load_tokenizer(source.described_by),
        base_model=wanted.base_model,
        load=partial(load_peft, base=source.described_by),
        packages=(*PACKAGES, "peft"),
    )


def certify_merged(source: SourceModel, *, folder: Path, base_model: str, dtype: Dtype) -> None:
    """The adapter beside its base model against the whole model in ``folder``, which is of this
    type."""
    write_certificate(
        native_model(source),
        architecture=source.architecture,
        folder=folder,
        tokenizer=load_tokenizer(source.described_by),
        base_model=base_model,
        tolerance=TOLERANCE if dtype is Dtype.fp32 else ROUNDED,
    )
