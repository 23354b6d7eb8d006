# SPDX-License-Identifier: Apache-2.0
"""The smoke suite of one GPU: ``pytest -m gpu -s``. All that can also runs on a CPU.

Speeds are printed beside their floor and never asserted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from megacpt.config.sections import Recipe
from megacpt.device.fp8 import equipment, obstacles
from tests.gpu.smoke import LARGE, SMALL, Shape, Trained, floor_s, train

BF16_RTOL = 5e-3
"""A product rounds each result to 8 bits, half a unit of which is 2e-3; a loss is a mean over
hundreds of tokens and stays closer. The same bound holds between bf16 and fp32 on one device."""
FP32_RTOL = 2e-5
"""Sums in another order: 6e-8 a term, some thousand terms, amplified by eight steps of AdamW. TF32
keeps 10 bits of 23 and misses this by far."""
RECIPE_RTOL = 2e-2
"""8-bit operands have 3 bits of mantissa; docs/precision.md has each recipe's measured loss gap."""
MEMORY_RATIO = (0.6, 1.3)
"""What the allocator held at most, over the plan, which counts neither slack nor communication."""

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
GPU = pytest.param("gpu", marks=[pytest.mark.gpu, on_gpu])
DEVICES = pytest.mark.parametrize("device", ["cpu", GPU])
Trainer = Callable[..., Trained]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Each run once: device, shape, settings."""

    @cache
    def run(device: str, *settings: str, shape: Shape = SMALL) -> Trained:
        work: Path = tmp_path_factory.mktemp("smoke")
        return train(work, device=device, shape=shape, settings=settings)

    return run


def show(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


@pytest.mark.mcore
@DEVICES
def test_a_run_learns_and_says_how_it_ran(device: str, trained: Trainer) -> None:
    run = trained(device)
    assert run.losses[-1] < run.losses[0] - 0.1
    settings = run.environment["settings"]
    fused = {name for name, on in settings["kernels"].items() if on}
    variables = {name: value["set_by"] for name, value in settings["variables"].items()}
    if device == "cpu":
        assert fused == set()
        assert "OMP_WAIT_POLICY" in variables
        assert settings["mfu_of"] == "bf16 products, measured at the start"
    else:
        assert {"bias_activation_fusion", "cross_entropy_loss_fusion"} <= fused
        assert {"CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_CUDA_ALLOC_CONF"} <= variables.keys()


@pytest.mark.slow
@pytest.mark.mcore
def test_bf16_loses_as_fp32_does_on_a_cpu(trained: Trainer) -> None:
    """The bound that a GPU is held to is wide enough for two ways of rounding."""
    fp32 = trained("cpu", "precision=fp32")
    np.testing.assert_allclose(trained("cpu").losses, fp32.losses, rtol=BF16_RTOL)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("settings", "rtol"), [((), BF16_RTOL), (("precision=fp32",), FP32_RTOL)], ids=["bf16", "fp32"]
)
def test_a_gpu_loses_as_a_cpu_does(
    settings: tuple[str, ...], rtol: float, trained: Trainer
) -> None:
    expected = trained("cpu", *settings).losses
    np.testing.assert_allclose(trained("gpu", *settings).losses, expected, rtol=rtol)


@pytest.mark.slow
@pytest.mark.mcore
@DEVICES
def test_a_deterministic_run_repeats_every_bit(device: str, trained: Trainer) -> None:
    settings = ("kernels.deterministic=true",)
    first = trained(device, *settings)
    again = trained(device, *settings, "kernels.manual_gc_steps=1")
    assert first.losses == again.losses
    assert first.environment["settings"]["kernels"]["deterministic_mode"]


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("recipe", [r for r in Recipe if r is not Recipe.none])
def test_a_recipe_that_the_gpu_has_trains(recipe: Recipe, trained: Trainer) -> None:
    missing = obstacles(recipe, found=equipment())
    if missing:
        pytest.skip(f"{recipe.name} needs {'; and '.join(missing)}")
    run = trained("gpu", f"precision.recipe={recipe.name}")
    np.testing.assert_allclose(run.losses, trained("gpu").losses, rtol=RECIPE_RTOL)


def shape_of(device: str) -> Shape:
    """A CPU proves that the measurement works; only a GPU's figures mean anything."""
    return LARGE if device == "gpu" else SMALL


@pytest.mark.mcore
@DEVICES
def test_speed_beside_the_floor(
    device: str, trained: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = shape_of(device)
    run, floor = trained(device, shape=shape), floor_s(tmp_path, device=device, shape=shape)
    tokens = shape.samples * shape.length
    show(
        capsys,
        f"{device}: {tokens / run.step_s:,.0f} tokens/s, the matrix products alone "
        f"{tokens / floor:,.0f}: {floor / run.step_s:.2f} of the floor; mfu {run.mfu:.3f} "
        f"of {run.environment['settings']['mfu_of']}",
    )
    assert 0 < floor < 60
    assert run.mfu > 0
    if device == "gpu":  # other programs disturb what a CPU is measured to do at the start
        assert run.mfu < 1.5


@pytest.mark.mcore
@DEVICES
def test_memory_beside_the_plan(
    device: str, trained: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(device, shape=shape_of(device))
    ratio = run.peak_gib / run.planned_gib
    show(
        capsys,
        f"{device}: {run.peak_gib:.2f} GiB held, {run.planned_gib:.2f} planned: {ratio:.2f}",
    )
    if device == "gpu":  # a CPU's figure holds Python and its libraries too
        low, high = MEMORY_RATIO
        assert low < ratio < high
