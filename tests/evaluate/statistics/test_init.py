# SPDX-License-Identifier: Apache-2.0
"""The example of docs/evaluation.md prints what the page shows below it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"


def test_the_page_s_example_prints_what_it_shows() -> None:
    section = PAGE.read_text().partition("## The statistics in words")[2]
    found = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", section, re.DOTALL)
    assert found is not None
    code, shown = found.groups()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == shown
