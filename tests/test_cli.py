# SPDX-License-Identifier: Apache-2.0
"""The command as people use it: help, speed, where torch is not loaded, Ctrl-C, completion."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from megacpt.cli import VERBS, main
from megacpt.config.compose import compose, render

NAMES = [verb.name for verb in VERBS]
COMMAND = [sys.executable, "-m", "megacpt"]


def test_help_names_every_verb_in_the_order_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"\n    {name}") for name in NAMES]
    assert places == sorted(places)


@pytest.mark.parametrize("name", NAMES)
def test_each_verb_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "example:" in shown
    assert f"  megacpt {name} " in shown or name == "completion"
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from megacpt.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_help_is_fast() -> None:
    def elapsed_s() -> float:
        started_at = time.monotonic()
        subprocess.run([*COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started_at

    assert min(elapsed_s() for _ in range(5)) < 0.3


@pytest.mark.parametrize("verb", ["config", "plan"])
def test_login_node_verbs_load_no_torch(verb: str) -> None:
    code = (
        "import sys; from megacpt.cli import main\n"
        f"assert main([{verb!r}, 'experiment=tiny']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_config_prints_yaml_that_is_the_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("schedule: {steps: 12}\n")
    words = ["experiment=tiny", "--config", str(mine), "parallel.tp=2"]
    assert main(["config", *words]) == 0
    shown = capsys.readouterr().out
    expected = compose(["experiment=tiny", "parallel.tp=2"], config_file=mine)
    assert yaml.safe_load(shown) == yaml.safe_load(render(expected))
    assert shown.splitlines()[-1].startswith("# Next: megacpt plan --config ")


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "FILE", "seed=7", "optim.beta1=0.5"],
        ["seed=7", "--config", "FILE", "optim.beta1=0.5"],
        ["seed=7", "optim.beta1=0.5", "--config=FILE"],
    ],
)
def test_options_may_stand_anywhere(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("seed: 1\n")
    assert main(["config", *[word.replace("FILE", str(mine)) for word in words]]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["seed"] == 7
    assert shown["optim"]["beta1"] == 0.5


def test_the_last_of_two_values_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "seed=7", "seed=8"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 8


def test_plan_fits_eighty_columns_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "experiment=tiny", "run_dir=r"]) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if not line.startswith("Run folder")]
    assert max(len(line) for line in lines) <= 80
    assert shown.endswith("Next: megacpt train experiment=tiny run_dir=r\n")
    assert not list(tmp_path.iterdir())


def test_tokenize_says_what_it_wrote_and_what_is_next(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("law.jsonl").write_text('{"text": "hello"}\n{"text": "you"}\n')
    model = compose(["experiment=tiny"]).model.path
    words = ["law.jsonl", "--tokenizer", str(model), "--output", "data/law", "--workers", "1"]
    assert main(["tokenize", *words]) == 0
    shown = capsys.readouterr().out
    assert "2 documents, 10 tokens" in shown
    assert "data/law.bin, data/law.idx, data/law.json" in shown
    assert f"megacpt plan model.path={model} data.sources.law.prefix=data/law" in shown
    assert Path("data/law.bin").stat().st_size > 0


def test_ctrl_c_is_one_line_with_the_way_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never.jsonl")
    model = str(compose(["experiment=tiny"]).model.path)
    words = ["tokenize", "never.jsonl", "--tokenizer", model, "--output", "my shard"]
    process = subprocess.Popen(
        [*COMMAND, *words, "--workers", "1"], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    # Opening the writing end waits until the command has opened the reading end.
    with (tmp_path / "never.jsonl").open("w"):
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error.startswith("Interrupted. Start it again to go on: megacpt tokenize never.jsonl")
    assert error.endswith("--output 'my shard' --workers 1\n")
    assert error.count("\n") == 1


INTERRUPTED = """
import os, signal
from megacpt import cli

def interrupted():
    os.kill(os.getpid(), signal.SIGINT)

def wrapped():
    try:
        interrupted()
    except BaseException as error:
        raise RuntimeError("a library's own") from error

cli._run = lambda parser, words: {how}
cli.entry()
"""


@pytest.mark.parametrize("how", ["interrupted()", "wrapped()", "exec('interrupted()')"])
def test_ctrl_c_ends_with_130_wherever_it_comes(tmp_path: Path, how: str) -> None:
    (tmp_path / "command.py").write_text(INTERRUPTED.format(how=how))
    command = [sys.executable, "-m", "command", "report", "runs/law"]
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True)
    assert done.stderr == "Interrupted. Start it again to go on: megacpt report runs/law\n"
    assert done.returncode == 130


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = f"{' '.join(COMMAND)} config experiment=tiny | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    assert "megacpt" in capsys.readouterr().out


@pytest.fixture
def command_folder(tmp_path: Path) -> Path:
    """A folder for PATH in which ``megacpt`` runs this checkout."""
    script = tmp_path / "bin" / "megacpt"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m megacpt "$@"\n')
    script.chmod(0o755)
    return script.parent


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tr", "train "),
        ("train exper", "train experiment="),
        ("train experiment=ti", "train experiment=tiny "),
        ("train seed=1 precision.dtype=b", "train seed=1 precision.dtype=bf16 "),
        ("plan optim.lr", "plan optim.lr_peak="),
        ("train data.sources.law.we", "train data.sources.law.weight="),
    ],
)
def test_bash_completes_on_tab(typed: str, completed: str, command_folder: Path) -> None:
    environment = os.environ | {
        "PATH": f"{command_folder}:{os.environ['PATH']}",
        "PS1": "$ ",
        "TERM": "dumb",
    }
    shell, fd = pty.fork()
    if shell == 0:
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    try:
        os.write(fd, b'bind "set enable-bracketed-paste off"; eval "$(megacpt completion bash)"\n')
        os.write(fd, b"echo ready-$((40 + 2))\n")
        _read_until(fd, "ready-42")
        os.write(fd, f"megacpt {typed}\t".encode())
        _read_until(fd, f"megacpt {completed}")
    finally:
        os.kill(shell, signal.SIGKILL)
        os.waitpid(shell, 0)
        os.close(fd)


def _read_until(fd: int, words: str, *, timeout_s: float = 15.0) -> None:
    seen = ""
    stop_at = time.monotonic() + timeout_s
    while words not in seen:
        ready, _, _ = select.select([fd], [], [], max(stop_at - time.monotonic(), 0))
        assert ready, f"waited for {words!r}, saw {seen!r}"
        seen += os.read(fd, 4096).decode()
