# SPDX-License-Identifier: Apache-2.0
"""``megacpt convert``, ``megacpt verify`` and tools/convert_checkpoint.py from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megacpt.cli import main
from megacpt.commands.convert import size_of
from megacpt.errors import ConfigError
from tests.llama_cases import write_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_llama(tmp_path / "hf")
    return tmp_path


def test_there_and_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "hf", "native"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Wrote the native checkpoint native\n")
    assert shown.endswith("Next: megacpt train model.path=hf checkpoint.load_from=native\n")
    assert main(["convert", "native", "back"]) == 0
    assert capsys.readouterr().out.endswith("Next: megacpt verify native back\n")
    assert main(["verify", "native", "back"]) == 0
    shown = capsys.readouterr().out
    assert shown == (
        "39 tensors: 39 equal bit for bit, 0 not, 0 of them beyond 0\nThe same model.\n"
    )
    assert main(["convert", "native", "back"]) == 2
    assert "back exists, and nothing is written over" in capsys.readouterr().err


def test_a_difference_is_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "hf", "narrow", "--to", "hf", "--dtype", "bf16"]) == 0
    capsys.readouterr()
    assert main(["verify", "hf", "narrow", "--logits"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "First apart: embedding" in lines
    assert lines[-1] == "Different by more than --tolerance 0."
    assert main(["verify", "hf", "narrow", "--tolerance", "0.01"]) == 0
    assert main(["verify", "hf", "narrow", "--tolerance", "-1"]) == 2


def test_sizes() -> None:
    assert [size_of(text) for text in ("5GB", "1.5 MiB", "700")] == [5 * 10**9, 3 * 2**19, 700]
    for text in ("5 bananas", "0GB", ""):
        with pytest.raises(ConfigError, match="is no size; use one such as 5GB"):
            size_of(text)


def test_no_megatron_core_is_needed(folder: Path) -> None:
    """The tool, in a process where it cannot be imported."""
    code = (
        "import sys, runpy; sys.modules['megatron'] = None\n"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['x', 'hf', 'native']\n"
        f"runpy.run_path({str(ROOT / 'tools' / 'convert_checkpoint.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Wrote the native checkpoint native\n")
    assert torch.distributed.is_initialized() is False
