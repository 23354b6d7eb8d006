# SPDX-License-Identifier: Apache-2.0
"""Whether this rank's GPU and Transformer Engine can run a recipe; if not, what it would take.

Asked before a model is built: Transformer Engine itself says so in the first forward pass, after
minutes of loading.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch

from megacpt.config.sections import PrecisionConfig, Recipe
from megacpt.device import environment
from megacpt.errors import EnvironmentError_

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Least compute capability, Transformer Engine and CUDA, and examples of such GPUs."""

    capability: Version
    engine: Version
    gpus: str
    cuda: Version = (12, 1)


NEEDS = {
    Recipe.delayed: Needs(capability=(8, 9), engine=(1, 0), gpus="L40S, H100, H200, B200"),
    Recipe.tensorwise: Needs(capability=(8, 9), engine=(2, 2), gpus="L40S, H100, H200, B200"),
    Recipe.blockwise: Needs(
        capability=(9, 0), engine=(2, 3), gpus="H100, H200, B200", cuda=(12, 9)
    ),
    Recipe.mxfp8: Needs(capability=(10, 0), engine=(2, 1), gpus="B200, GB200"),
    Recipe.nvfp4: Needs(capability=(10, 0), engine=(2, 7), gpus="B200, GB200"),
}
_AVAILABLE = {
    Recipe.delayed: "is_fp8_available",
    Recipe.tensorwise: "is_fp8_available",
    Recipe.blockwise: "is_fp8_block_scaling_available",
    Recipe.mxfp8: "is_mxfp8_available",
    Recipe.nvfp4: "is_nvfp4_available",
}
"""Transformer Engine's own word on a recipe; the newest versions know exceptions to the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What a rank has."""

    gpu: str
    capability: Version
    cuda: str
    """That torch was built with; empty for a CPU build."""
    torch: str
    engine: str | None
    """Version of Transformer Engine; None where it is not installed."""
    engine_fault: str | None = None
    """Why it cannot be imported although it is installed."""


def require_recipe(precision: PrecisionConfig) -> None:
    """Refuse a recipe that this rank's GPU or software cannot run; nothing for plain bf16."""
    recipe = precision.recipe
    if recipe is Recipe.none:
        return
    refuse(recipe, needed=obstacles(recipe, found=equipment()))
    available: Callable[..., tuple[bool, str]] | None = getattr(
        importlib.import_module("transformer_engine.pytorch"), _AVAILABLE[recipe], None
    )
    if available is not None:
        possible, reason = available(return_reason=True)
        refuse(recipe, needed=[] if possible else [f"what Transformer Engine names: {reason}"])
    if recipe is Recipe.delayed:
        # The amax histories of a checkpoint are a pickle, which it refuses without this word. They
        # are read from the run's own folder, written by the run itself.
        environment.set_default("NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE", value="1")


def equipment() -> Equipment:
    """Equipment of this process, whose GPU is taken already."""
    engine, fault = engine_version()
    return Equipment(
        gpu=torch.cuda.get_device_name(),
        capability=torch.cuda.get_device_capability(),
        cuda=torch.version.cuda or "",
        torch=torch.__version__,
        engine=engine,
        engine_fault=fault,
    )


def engine_version() -> tuple[str | None, str | None]:
    """Transformer Engine's version, and why it cannot be imported, where it cannot."""
    try:
        version = metadata.version("transformer-engine")
    except metadata.PackageNotFoundError:
        return None, None
    try:
        importlib.import_module("transformer_engine.pytorch")
    except (ImportError, OSError, RuntimeError) as error:
        # Built for another torch, or libraries of CUDA that the loader does not find.
        return version, f"{type(error).__name__}: {error}"
    return version, None


def obstacles(recipe: Recipe, *, found: Equipment) -> list[str]:
    """All that stands in the recipe's way, each with what would do."""
    needs = NEEDS[recipe]
    missing: list[str] = []
    if found.capability < needs.capability:
        missing.append(
            f"compute capability {_text(needs.capability)} or higher ({needs.gpus}), but "
            f"{found.gpu} has {_text(found.capability)}"
        )
    if _version(found.cuda) < needs.cuda:
        missing.append(
            f"a torch built with CUDA {_text(needs.cuda)} or newer, but torch {found.torch} was "
            f"built with {found.cuda or 'none'}"
        )
    engine = f"Transformer Engine {_text(needs.engine)} or newer"
    if found.engine is None:
        missing.append(f"{engine}, but none is installed")
    elif _version(found.engine) < needs.engine:
        missing.append(f"{engine}, but {found.engine} is installed")
    elif found.engine_fault is not None:
        missing.append(
            f"{engine} built for torch {found.torch}, but {found.engine} cannot be imported "
            f"({found.engine_fault})"
        )
    return missing


def refuse(recipe: Recipe, *, needed: list[str]) -> None:
    if needed:
        all_ = "; and ".join(needed).rstrip(".")
        raise EnvironmentError_(
            f"precision.recipe={recipe.name} needs {all_}. Use such a GPU with "
            "NVIDIA's PyTorch container, precision=bf16, or cluster.device=cpu for the emulation."
        )


def _version(text: str) -> Version:
    """``2.20.2+cu13`` -> (2, 20, 2); nothing -> ()."""
    return tuple(int(number) for number in re.findall(r"\d+", text.split("+")[0]))


def _text(version: Version) -> str:
    return ".".join(map(str, version))
