# SPDX-License-Identifier: Apache-2.0
"""What the hub refuses, as one sentence each."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from huggingface_hub import constants

from megacpt.config.hub_model import HubModel
from megacpt.errors import EnvironmentError_, MegacptError, ModelError
from megacpt.hub.fetch import fetch, fetch_weights
from megacpt.hub.problems import reason_of
from tests.hub_server import HubServer, Repo
from tests.support import LLAMA, write_model_folder

TINY = HubModel(repo="org/tiny")


def refusal(text: str) -> MegacptError:
    model = HubModel.asked(text)
    assert model is not None
    with pytest.raises(MegacptError) as refused:
        fetch(
            model,
            called=f"model.path={text}",
            pretrained=True,
            note=lambda text: None,
            online=True,
        )
    words = str(refused.value)
    assert words.startswith(f"model.path={text}: ")
    assert words.endswith(".")
    assert "\n" not in words
    return refused.value


@pytest.fixture
def tiny(hub: HubServer, tmp_path: Path) -> Repo:
    folder = write_model_folder(tmp_path / "files")
    repo = hub.repos["org/tiny"] = Repo()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    repo.commit(files | {"model.safetensors": b"weights"})
    return repo


@pytest.mark.parametrize("token", [None, "hf_mine"])
@pytest.mark.parametrize("name", ["org/absent", "org/private"])
def test_nobody_is_told_which_private_repositories_there_are(
    name: str, token: str | None, hub: HubServer, tiny: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/private"] = Repo(token="hf_right", commits=tiny.commits, refs=tiny.refs)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    found = refusal(name)
    assert isinstance(found, ModelError)
    words = str(found)
    assert f"has no repository {name} that you may see; check its name, or set HF_TOKEN" in words


@pytest.mark.parametrize("name", ["org/absent", "org/private", "org/tiny"])
def test_a_token_that_is_no_more(
    name: str, hub: HubServer, tiny: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub refuses it even for what everybody may see."""
    hub.repos["org/private"] = Repo(token="hf_right", commits=tiny.commits, refs=tiny.refs)
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    words = str(refusal(name))
    assert f"refuses your token for {name} (HTTP 401); renew HF_TOKEN" in words
    assert "hf_stale" not in words


def test_a_private_repository_is_had_with_its_token(
    hub: HubServer, tiny: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    fetch(TINY, called="", pretrained=True, note=lambda text: None, online=True)


@pytest.mark.parametrize("token", [None, "hf_mine"])
def test_gated_says_where_the_terms_are(
    token: str | None, hub: HubServer, tiny: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.gated, tiny.token = True, "hf_right"
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    words = str(refusal("org/tiny"))
    assert f"accept its terms at {hub.address}/org/tiny, and set HF_TOKEN or log in" in words


@pytest.mark.parametrize("revision", ["v9", "refs/pr/7", "0" * 40])
def test_a_revision_that_is_not_there(revision: str, tiny: Repo) -> None:
    words = str(refusal(f"org/tiny@{revision}"))
    assert f"has no revision {revision} of org/tiny; name a branch, tag or commit" in words


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (403, "has no repository org/tiny that you may see"),
        (429, "asks you to wait (HTTP 429); try later, or set HF_TOKEN"),
        (500, "answers HTTP 500 for org/tiny; try later"),
        (503, "answers HTTP 503 for org/tiny; try later"),
    ],
)
def test_other_answers_are_named(status: int, wanted: str, hub: HubServer) -> None:
    hub.status = status
    assert wanted in str(refusal("org/tiny"))


def test_a_disabled_repository(tiny: Repo) -> None:
    tiny.disabled = True
    assert "has disabled org/tiny; use another model" in str(refusal("org/tiny"))


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:9", "http://nowhere.invalid", "nonsense", "http://me:hunter2@127.0.0.1:9"],
)
def test_no_network(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = refusal("org/tiny")
    assert isinstance(found, EnvironmentError_)
    assert "cannot be reached for org/tiny (" in str(found)
    assert "check the network, HF_ENDPOINT and the proxy" in str(found)
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("text", ["org/tiny", "org/tiny@v1", "org/tiny@" + "a" * 40])
def test_offline_without_the_model(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    words = str(refusal(text))
    assert f"HF_HUB_OFFLINE is set and the hub's cache {tmp_path} does not hold {text}" in words


def test_the_network_goes_before_the_weights(
    hub: HubServer, tiny: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch(TINY, called="", pretrained=True, note=lambda text: None, online=True)
    hub.status = 502
    with pytest.raises(ModelError, match="HTTP 502 for org/tiny@"):
        fetch_weights(folder, note=lambda text: None, progress=lambda done, total: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentError_, match="HF_HUB_OFFLINE is set"):
        fetch_weights(folder, note=lambda text: None, progress=lambda done, total: None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_is_named(number: int) -> None:
    words = reason_of(OSError(number, "no", "/cache/blobs/x"), model=TINY)
    assert words == "/cache/blobs/x cannot be written (no); set HF_HOME to another folder"


def test_a_file_in_the_place_of_the_cache(
    tiny: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text(str(LLAMA))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert "cannot be written" in str(refusal("org/tiny"))
