# SPDX-License-Identifier: Apache-2.0
"""A run of any layout exports the folder that the single-rank run exports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

SETTINGS = ["experiment=tiny", "schedule.steps=3", "cluster.device=cpu", "monitor.wandb=disabled"]


def trained_weights(run_dir: Path, layout: list[str]) -> dict[str, np.ndarray]:
    for words in (["train", f"run_dir={run_dir}", *SETTINGS, *layout], ["export", str(run_dir)]):
        command = [sys.executable, "-m", "megacpt", *words]
        subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
    certificate = json.loads((run_dir / "hf" / "certificate.json").read_text())
    assert certificate["certified"]
    return load_file(run_dir / "hf" / "model.safetensors")


@pytest.mark.mcore
@pytest.mark.slow
def test_cut_padded_and_staged_checkpoint_exports_whole(tmp_path: Path) -> None:
    """tp=2 pads the vocabulary of 257 to 258; pp=2 deals the layers to two stages."""
    expected = trained_weights(tmp_path / "one", [])
    found = trained_weights(tmp_path / "four", ["parallel.tp=2", "parallel.pp=2"])
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        # Three AdamW steps at lr 3e-3 turn fp32 rounding of sums into at most about 1e-6.
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-5, err_msg=name)
