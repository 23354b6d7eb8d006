# SPDX-License-Identifier: Apache-2.0
"""The verb as a process, from its first line to a signal; and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from megacpt.cli import main
from tests.forked import PYTHON
from tests.serve.folders import write_model


def command(*words: str) -> list[str]:
    return [PYTHON, "-m", "megacpt", "serve", *words]


def address(said: IO[str] | None) -> str:
    """Which the first line ends with. The second is read too: whoever asks the process for the rest
    gets what is in the pipe, not what a reader has taken from there beyond its own line."""
    assert said is not None
    first, second = said.readline(), said.readline()
    assert first.startswith("Serving "), first
    assert second == "Ctrl-C ends it.\n", second
    return first.split()[-1]


def completion(url: str, *, key: str) -> dict[str, object]:
    body = json.dumps({"model": "tiny", "prompt": "Once", "max_tokens": 3}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    with urlopen(Request(f"{url}/completions", body, headers), timeout=60) as reply:
        content: dict[str, object] = json.load(reply)
    return content


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_model_is_served_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    words = [str(write_model(tmp_path / "tiny")), "--port", "0", "--key-variable", "SERVE_KEY"]
    with subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SERVE_KEY": "sk-secret"},
    ) as server:
        url = address(server.stdout)
        assert completion(url, key="sk-secret")["object"] == "text_completion"
        with pytest.raises(HTTPError, match="401"):
            completion(url, key="sk-other")
        server.send_signal(number)
        said, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors
    assert said == "Ended.\n"
    assert "secret" not in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command(str(folder), "--port", str(port)), capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: 127.0.0.1:{port} cannot be listened at (Address already")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model is no Hugging Face folder: it has no config.json. Name one, or a run that"),
        (["--port", "70000"], "--port=70000 is outside [0, 65535]; 8000 is usual."),
        (["--batch", "0"], "--batch=0 is below 1; use 1 or more."),
        (["--key-variable", "NO_KEY"], "--key-variable=NO_KEY holds no key; set that environment"),
        (["--base", "other"], "--base=other is for an adapter, and "),
    ],
)
def test_what_cannot_be_served_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["serve", str(tmp_path / "model"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_was_not_exported_is_told_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("")
    assert main(["serve", str(tmp_path)]) == 2
    assert f"transformers cannot read it yet; megacpt export {tmp_path}" in capsys.readouterr().err
