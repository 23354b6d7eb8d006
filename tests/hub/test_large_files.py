# SPDX-License-Identifier: Apache-2.0
"""Downloads that are interrupted, damaged, or made by two at once."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from megacpt.config.hub_model import HubModel
from megacpt.errors import EnvironmentError_
from megacpt.hub.large_files import LargeFile, fetch_large
from tests.hub_server import HubServer, Repo

CHUNK = constants.DOWNLOAD_CHUNK_SIZE
CONTENT = random.Random(2).randbytes(CHUNK + CHUNK // 2)
FETCH = """
import sys
from pathlib import Path
from megacpt.config.hub_model import HubModel
from megacpt.hub.large_files import LargeFile, fetch_large
blobs, name, size, digest = sys.argv[1:]
fetch_large(
    [LargeFile(name=name, size=int(size), sha256=digest)],
    model=HubModel(repo="org/tiny", revision="main"),
    blobs=Path(blobs),
    progress=lambda done, total: None,
)
"""


def large(content: bytes, *, name: str = "model.safetensors") -> LargeFile:
    digest = hashlib.sha256(content).hexdigest()
    return LargeFile(name=name, size=len(content), sha256=digest)


def fetch(hub: HubServer, blobs: Path, *contents: bytes) -> list[tuple[int, int]]:
    """Returns the progress that was shown."""
    files = {f"model-{i}.safetensors": content for i, content in enumerate(contents)}
    hub.repos["org/tiny"] = Repo()
    commit = hub.repos["org/tiny"].commit(files)
    seen: list[tuple[int, int]] = []
    fetch_large(
        [large(content, name=name) for name, content in files.items()],
        model=HubModel(repo="org/tiny", revision=commit),
        blobs=blobs,
        progress=lambda done, total: seen.append((done, total)),
    )
    for content in contents:
        assert (blobs / large(content).sha256).read_bytes() == content
    return seen


def ranges(hub: HubServer) -> list[str | None]:
    return [request.range for request in hub.requests if request.host == "store"]


@pytest.mark.parametrize("kept", [0, 1, CHUNK - 1, len(CONTENT) - 1, len(CONTENT)])
def test_what_has_come_is_not_fetched_again(kept: int, hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / f"{large(CONTENT).sha256}.incomplete").write_bytes(CONTENT[:kept])
    seen = fetch(hub, tmp_path, CONTENT)
    wanted = {0: [None], len(CONTENT): []}
    assert ranges(hub) == wanted.get(kept, [f"bytes={kept}-"])
    assert seen[0][0] >= kept
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == [large(CONTENT).sha256]


def test_a_broken_connection_goes_on(hub: HubServer, tmp_path: Path) -> None:
    hub.cut_after = [CHUNK + 7]
    fetch(hub, tmp_path, CONTENT)
    assert ranges(hub) == [None, f"bytes={CHUNK}-"]


@pytest.mark.parametrize("number", [2, 20])
def test_many_files_come_side_by_side(number: int, hub: HubServer, tmp_path: Path) -> None:
    contents = [random.Random(n).randbytes(100_000 + n) for n in range(number)]
    assert fetch(hub, tmp_path, *contents)[-1][0] == sum(map(len, contents))
    assert len(ranges(hub)) == number


def test_one_that_fails_ends_the_others(hub: HubServer, tmp_path: Path) -> None:
    hub.repos["org/tiny"] = Repo()
    hub.repos["org/tiny"].commit({})
    files = [large(b"a", name=f"{n}.safetensors") for n in range(30)]
    with pytest.raises(OSError, match="404"):
        fetch_large(
            files,
            model=HubModel(repo="org/tiny", revision="main"),
            blobs=tmp_path,
            progress=lambda done, total: None,
        )
    assert len(hub.requests) < len(files)


def test_a_damaged_file_is_named_and_fetched_anew(hub: HubServer, tmp_path: Path) -> None:
    hub.corrupt = True
    with pytest.raises(EnvironmentError_, match=r"model-0.safetensors of org/tiny@.* damaged: its"):
        fetch(hub, tmp_path, CONTENT)
    hub.corrupt = False
    hub.requests.clear()
    fetch(hub, tmp_path, CONTENT)
    assert ranges(hub) == [None]


def start(hub: HubServer, blobs: Path) -> subprocess.Popen[str]:
    file = large(CONTENT)
    command = [sys.executable, "-c", FETCH, str(blobs), file.name, str(file.size), file.sha256]
    environment = {"HF_ENDPOINT": hub.address, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen(command, env=environment, text=True)


def wait_for_bytes(path: Path, *, limit_s: float = 30) -> int:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if path.exists() and path.stat().st_size:
            return path.stat().st_size
        time.sleep(0.02)
    raise TimeoutError(path)


def test_a_killed_process_has_not_lost_what_came(hub: HubServer, tmp_path: Path) -> None:
    content = CONTENT * 2
    hub.gate = threading.Event()
    hub.repos["org/tiny"] = Repo()
    hub.repos["org/tiny"].commit({"model.safetensors": content})
    file = large(content)
    command = [sys.executable, "-c", FETCH, str(tmp_path), file.name, str(file.size), file.sha256]
    environment = {"HF_ENDPOINT": hub.address, "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(command, env=environment) as process:
        wait_for_bytes(tmp_path / f"{file.sha256}.incomplete")
        process.kill()
    came = (tmp_path / f"{file.sha256}.incomplete").stat().st_size
    hub.gate.set()
    hub.gate = None
    hub.requests.clear()
    subprocess.run(command, env=environment, check=True)
    assert ranges(hub) == [f"bytes={came}-"]
    assert (tmp_path / file.sha256).read_bytes() == content


def test_ctrl_c_ends_it_at_once_and_keeps_what_came(hub: HubServer, tmp_path: Path) -> None:
    content = CONTENT * 2
    hub.gate = threading.Event()
    hub.repos["org/tiny"] = Repo()
    hub.repos["org/tiny"].commit({"model.safetensors": content})
    file = large(content)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    started_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch_large(
            [file],
            model=HubModel(repo="org/tiny", revision="main"),
            blobs=tmp_path,
            progress=interrupt,
        )
    assert time.monotonic() - started_at < 10
    came = (tmp_path / f"{file.sha256}.incomplete").stat().st_size
    hub.gate.set()
    assert 0 < came < len(content)


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(hub: HubServer, tmp_path: Path) -> None:
    hub.gate = threading.Event()
    hub.repos["org/tiny"] = Repo()
    hub.repos["org/tiny"].commit({"model.safetensors": CONTENT})
    first, second = start(hub, tmp_path), start(hub, tmp_path)
    while not ranges(hub):
        time.sleep(0.02)
    time.sleep(0.5)
    hub.gate.set()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert ranges(hub) == [None]


def test_the_token_is_for_the_hub_alone(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(hub, tmp_path, CONTENT)
    sent = {(request.host, request.authorization) for request in hub.requests}
    assert sent == {("hub", "Bearer hf_secret"), ("store", None)}
