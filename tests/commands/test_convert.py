# SPDX-License-Identifier: Apache-2.0
"""``megacpt convert``, ``megacpt verify`` and tools/convert_checkpoint.py from the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megacpt.cli import main
from megacpt.commands.convert import size_of
from megacpt.errors import ConfigError
from megacpt.text import text_size
from tests.commands.test_model import WEIGHTS
from tests.hub_server import HubServer, Repo
from tests.llama_cases import write_llama
from tests.support import write_model_folder

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


def test_a_model_of_the_hub(
    hub: HubServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its id, and before it is here, what its conversion takes."""
    files = write_model_folder(folder / "files")
    (files / "model.safetensors").write_bytes(WEIGHTS)
    hub.repos["org/tiny"] = Repo()
    commit = hub.repos["org/tiny"].commit({p.name: p.read_bytes() for p in files.iterdir()})
    assert main(["convert", "org/tiny", "native", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"Would download {text_size(len(WEIGHTS))} of weights of org/tiny@{commit} to"
    )
    assert lines[-1] == "Next: megacpt convert org/tiny native"
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("years of work")
    assert main(["convert", "org/tiny", "taken"]) == 2
    assert not any(request.host == "store" for request in hub.requests)
    capsys.readouterr()
    assert main(["convert", "org/tiny@main", "native"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    train = f"megacpt train model.path=org/tiny@{commit} checkpoint.load_from=native"
    assert shown == f"Next: {train}"
    assert main(["convert", "native", "back", "--dry-run"]) == 0
    assert main(["verify", "org/tiny", "native"]) == 0
    assert main(["verify", "files", "native", "--base", "org/tiny"]) == 0
    assert main(["convert", "org/tinny", "other"]) == 2
    said = capsys.readouterr().err
    assert f"SOURCE org/tinny (there is no folder {Path('org/tinny').absolute()}, so" in said


def test_a_dry_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hf", "made", "--to", "hf", "--dtype", "bf16", "--max-shard-size", "100KB"]
    assert main(["convert", *words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Would write the Hugging Face folder made:"
    assert lines[1].startswith("  reads   39 tensors of hf, ")
    assert re.fullmatch(r"  writes  \S+ kB in 1 file, with \S+ GB free there", lines[2])
    assert re.fullmatch(r"  takes   about 0:\d\d: the first \S+ kB took \d+\.\d\d s", lines[3])
    assert lines[4:] == [f"Next: megacpt convert {' '.join(words)}"]
    assert max(map(len, lines)) <= 80
    assert sorted(path.name for path in folder.iterdir()) == ["hf"]
    assert main(["convert", "nowhere/at/all", "made", "--dry-run"]) == 2
    assert "nowhere/at/all does not exist: a Hugging Face folder" in capsys.readouterr().err
