# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/tokenize.md, run one after another, print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT, assert_shown, examples

PAGE = ROOT / "docs" / "tokenize.md"
TIMES = re.compile(r"in [\d.]+ s \([\d.]+ \w+/s\)")


def timeless(text: str) -> str:
    return TIMES.sub("in some time", text)


@pytest.mark.slow
def test_the_examples_print_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    command = tmp_path / "bin" / "megacpt"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m megacpt "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    found = list(examples(PAGE))
    assert len(found) >= 10
    for example in found:
        done = subprocess.run(
            ["bash", "-c", example.command], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        output = tuple(timeless("\n".join(example.output)).splitlines())
        assert_shown(output, printed=timeless(done.stderr + done.stdout))
        refused = any(line.startswith("Error: ") for line in output)
        assert done.returncode == (2 if refused else 0), example.command
