# SPDX-License-Identifier: Apache-2.0
"""A recipe that GPU or software cannot run is refused in one message that says what would do."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

import pytest

from megacpt.config.sections import PrecisionConfig, Recipe
from megacpt.device import fp8
from megacpt.device.fp8 import Equipment
from megacpt.errors import EnvironmentError_

H100 = Equipment(
    gpu="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    cuda="13.0",
    torch="2.13.0+cu130",
    engine="2.20.2",
)
A100 = replace(H100, gpu="NVIDIA A100-SXM4-80GB", capability=(8, 0))
B200 = replace(H100, gpu="NVIDIA B200", capability=(10, 0))
RECIPES = [recipe for recipe in Recipe if recipe is not Recipe.none]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_blackwell_runs_all(recipe: Recipe) -> None:
    assert fp8.obstacles(recipe, found=B200) == []


def test_a_hopper_lacks_the_block_formats_of_its_successor() -> None:
    possible = [recipe.name for recipe in RECIPES if not fp8.obstacles(recipe, found=H100)]
    assert possible == ["delayed", "tensorwise", "blockwise"]
    assert fp8.obstacles(Recipe.mxfp8, found=H100) == [
        "compute capability 10.0 or higher (B200, GB200), but NVIDIA H100 80GB HBM3 has 9.0"
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_ampere_runs_none(recipe: Recipe) -> None:
    with pytest.raises(EnvironmentError_, match=r"needs compute capability .* A100.* has 8\.0"):
        fp8.refuse(recipe, needed=fp8.obstacles(recipe, found=A100))


def test_all_that_is_missing_is_in_one_message() -> None:
    found = replace(A100, cuda="12.4", torch="2.6.0+cu124", engine="2.1.0")
    with pytest.raises(EnvironmentError_) as error:
        fp8.refuse(Recipe.blockwise, needed=fp8.obstacles(Recipe.blockwise, found=found))
    assert str(error.value) == (
        "precision.recipe=blockwise needs compute capability 9.0 or higher (H100, H200, B200), but "
        "NVIDIA A100-SXM4-80GB has 8.0; and a torch built with CUDA 12.9 or newer, but torch "
        "2.6.0+cu124 was built with 12.4; and Transformer Engine 2.3 or newer, but 2.1.0 is "
        "installed. Use such a GPU with NVIDIA's PyTorch container, precision=bf16, or "
        "cluster.device=cpu for the emulation."
    )


def test_an_engine_built_for_another_torch_is_told_from_a_missing_one() -> None:
    missing = fp8.obstacles(Recipe.delayed, found=replace(H100, engine=None))
    assert missing == ["Transformer Engine 1.0 or newer, but none is installed"]
    broken = replace(H100, engine_fault="ImportError: undefined symbol: _ZN3c10")
    assert fp8.obstacles(Recipe.delayed, found=broken) == [
        "Transformer Engine 1.0 or newer built for torch 2.13.0+cu130, but 2.20.2 cannot be "
        "imported (ImportError: undefined symbol: _ZN3c10)"
    ]


def test_plain_bf16_asks_for_nothing() -> None:
    """No GPU is looked for: this would fail where there is none."""
    fp8.require_recipe(PrecisionConfig())


def test_what_is_installed_here_is_found() -> None:
    version, fault = fp8.engine_version()
    try:
        assert version == metadata.version("transformer-engine")
    except metadata.PackageNotFoundError:
        assert (version, fault) == (None, None)
