# SPDX-License-Identifier: Apache-2.0
"""Other versions of transformers come whole or not at all, and no network is told from a fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "install_readers.py"


@pytest.mark.parametrize(
    "pip", [{"PIP_NO_INDEX": "1"}, {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0"}]
)
def test_without_a_network_nothing_is_left(pip: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "readers"
    alone = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    run = subprocess.run(
        [sys.executable, str(TOOL), str(folder)], env=os.environ | alone | pip, check=False
    )
    assert run.returncode == 3
    assert not folder.exists() or not list(folder.glob("[0-9]*"))
