# SPDX-License-Identifier: Apache-2.0
"""Bars of libraries are switched off before the first of them is imported, which reads that."""

from __future__ import annotations

import subprocess
import sys

import pytest

ONE_RANK = """
from megacpt.commands.model import one_rank

with one_rank():
    from tqdm import tqdm

    assert tqdm(range(3)).disable
"""


@pytest.mark.slow
@pytest.mark.mcore
def test_a_rank_of_its_own_has_no_bars() -> None:
    """torch imports them with what it takes to start a rank."""
    subprocess.run([sys.executable, "-c", ONE_RANK], check=True, timeout=120)
