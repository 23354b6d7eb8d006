# SPDX-License-Identifier: Apache-2.0
"""Where weights and optimizer state lie changes no loss on one GPU (``-m gpu``).

On CPUs: tests/train/test_zero3.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gpu.smoke import SMALL, train

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
BF16_RTOL = 5e-3
"""As in test_gpu_smoke.py: two ways of rounding the same sums."""

pytestmark = [pytest.mark.gpu, pytest.mark.mcore, on_gpu]


def test_offloaded_and_cut_state_train_the_same_curve(tmp_path: Path) -> None:
    expected = train(tmp_path / "plain", device="gpu", shape=SMALL).losses
    offload = ("parallel.distributed_optimizer=true", "optim.offload=true")
    for name, settings in {"offload": offload, "zero3": ("parallel.sharded_weights=true",)}.items():
        losses = train(tmp_path / name, device="gpu", shape=SMALL, settings=settings).losses
        np.testing.assert_allclose(losses, expected, rtol=BF16_RTOL, err_msg=name)
