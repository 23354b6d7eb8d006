# SPDX-License-Identifier: Apache-2.0
"""Adapters lose on one GPU as they do on a CPU, with a base in bf16, fp32 and fp8 (``-m gpu``).

Without a GPU, of the same layers: tests/model/adapters/test_te.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from megacpt.config.sections import AdapterMethod, Recipe
from megacpt.device.fp8 import equipment, obstacles
from tests.gpu.smoke import SMALL, train
from tests.gpu.test_smoke import BF16_RTOL, FP32_RTOL, RECIPE_RTOL

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
pytestmark = [pytest.mark.gpu, pytest.mark.mcore, on_gpu]


@pytest.mark.parametrize(("precision", "rtol"), [("bf16", BF16_RTOL), ("fp32", FP32_RTOL)])
@pytest.mark.parametrize("method", AdapterMethod)
def test_a_gpu_loses_as_a_cpu_does(
    method: AdapterMethod, precision: str, rtol: float, tmp_path: Path
) -> None:
    settings = (f"adapter={method.name}", f"precision={precision}")
    found, expected = (
        train(tmp_path / device, device=device, shape=SMALL, settings=settings).losses
        for device in ("gpu", "cpu")
    )
    assert found[-1] < found[0]
    np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.mark.parametrize("method", [AdapterMethod.lora, AdapterMethod.dora])
def test_a_base_in_fp8_loses_as_one_in_bf16(method: AdapterMethod, tmp_path: Path) -> None:
    if missing := obstacles(Recipe.delayed, found=equipment()):
        pytest.skip(f"fp8 needs {'; and '.join(missing)}")
    settings = (f"adapter={method.name}",)
    expected = train(tmp_path / "bf16", device="gpu", shape=SMALL, settings=settings).losses
    settings = (*settings, "precision.recipe=delayed")
    found = train(tmp_path / "fp8", device="gpu", shape=SMALL, settings=settings).losses
    np.testing.assert_allclose(found, expected, rtol=RECIPE_RTOL)
