# SPDX-License-Identifier: Apache-2.0
"""``megacpt inspect`` and tools/inspect_dataset.py from the command line."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from megacpt.cli import main
from megacpt.commands import common
from megacpt.shards.tokenize import tokenize

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "model" / "tiny")


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "A rose opens."}\n{"text": "A fern."}\n')
    tokenize(["a.jsonl"], tokenizer=TINY, output_prefix="data/a.b", workers=1)
    return "data/a.b"


def test_text_picture_and_the_next_command(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", shard, "--tokenizer", TINY, "--verify", "--full", "--picture", "a.svg"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Checksums     both files are as the manifest says" in shown
    assert "  | A rose opens.<eos>" in shown
    assert "\nWrote a.svg\n" in shown
    assert shown.endswith(
        f"Next: megacpt plan model.path={TINY} data.sources.a_b.prefix=data/a.b\n"
    )
    assert Path("a.svg").exists()


def test_json(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", shard, "--json", "--verify"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["prefix"], content["verified"]) == (shard, True)


def test_a_changed_byte_is_found(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(f"{shard}.bin")
    path.write_bytes(b"\x00" + path.read_bytes()[1:])
    assert main(["inspect", shard]) == 0
    assert main(["inspect", shard, "--verify"]) == 2
    assert "is not what data/a.b.json says: sha256 of .bin" in capsys.readouterr().err


def test_samples_need_a_tokenizer(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", shard, "--samples", "3"]) == 2
    assert "name the model's folder with --tokenizer" in capsys.readouterr().err


def test_the_tool_does_the_same_without_torch(shard: str) -> None:
    tool = ROOT / "tools" / "inspect_dataset.py"
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['inspect_dataset.py', {shard!r}]\n"
        f"try: runpy.run_path({str(tool)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Documents     2" in done.stdout


def test_slow_work_shows_how_far_it_is_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child process whose standard error is a terminal; nothing shows before two seconds."""
    code = (
        "from megacpt import text\n"
        "from megacpt.commands import common\n"
        "common.SLOW_S = {slow}\ntext.REDRAW_S = 0\n"
        "show = common.slow_progress('tokens')\n"
        "for n in range(1, 5): show(n, 4)\n"
    )
    assert common.SLOW_S == 2
    assert run_on_terminal(code.format(slow=60)) == ""
    shown = [f"\r\x1b[Ktokens  {share}%  0:00 left" for share in ("25.0", "50.0", "75.0")]
    assert run_on_terminal(code.format(slow=-1)) == "".join(shown) + "\r\x1b[K"


def run_on_terminal(code: str) -> str:
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    assert done.returncode == 0
    os.close(theirs)
    text = b""
    while select.select([ours], [], [], 0)[0]:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        text += piece
    os.close(ours)
    return text.decode()
