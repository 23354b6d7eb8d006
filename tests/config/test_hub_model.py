# SPDX-License-Identifier: Apache-2.0
"""Names of models on the hub, and folders that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.utils import validate_repo_id

from megacpt.config.compose import compose, read_run_yaml, write_run_yaml
from megacpt.config.hub_model import HubModel, named
from megacpt.errors import ConfigError

COMMIT = "93efa2f097d58c2a74874c7e644dbc9b0cee75a2"
OTHER = "0" * 40


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M", None),
        ("01-ai/Yi-1.5-6B@main", "01-ai/Yi-1.5-6B", "main"),
        (f"Qwen/Qwen2.5-0.5B@{COMMIT}", "Qwen/Qwen2.5-0.5B", COMMIT),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3"),
        ("a_b/c@v1.0-rc.1", "a_b/c", "v1.0-rc.1"),
        ("hf://a/b@x/y", "a/b", "x/y"),
        ("https://huggingface.co/a/b", "a/b", None),
    ],
)
def test_ids_are_read_as_the_hub_would(text: str, repo: str, revision: str | None) -> None:
    found = HubModel.asked(text)
    assert found is not None
    assert (found.repo, found.revision) == (repo, revision)
    validate_repo_id(found.repo)
    [written] = [compose([f"model.path={text}"]).model.path]
    assert written == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "llama",
            "/a/b",
            "./a/b",
            "../b",
            "~/b",
            "a/b/c",
            "a//b",
            "a/b/",
            "builtin:model/tiny",
        ),
        *("a--b/c", "a/b..c", "a/.b", "a/b@", "a/b@../x", "a/b c", "-a/b", "s3://a/b", "a/b\n"),
    ],
)
def test_paths_are_no_ids(text: str) -> None:
    assert HubModel.asked(text) is None


@pytest.mark.parametrize("name", ["org/tiny", "org/tiny@v1"])
def test_a_folder_of_that_name_wins(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert compose([f"model.path={name}"]).model.path == str(tmp_path / name)
    assert compose([f"model.path=hf://{name}"]).model.path == f"hf://{name}"


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        (f"/hf/hub/models--a--b-c/snapshots/{COMMIT}", f"a/b-c@{COMMIT}"),
        (f"/hf/hub/models--a--b/snapshots/{COMMIT}/", f"a/b@{COMMIT}"),
        (f"/hf/hub/datasets--a--b/snapshots/{COMMIT}", None),
        (f"/hf/hub/models--gpt2/snapshots/{COMMIT}", None),
        ("/hf/hub/models--a--b/snapshots/main", None),
        (f"/hf/hub/models--a--b/snapshots/{COMMIT}/onnx", None),
        ("/models/llama", None),
    ],
)
def test_folders_of_the_cache_know_their_model(folder: str, wanted: str | None) -> None:
    assert named(folder) == (wanted or folder)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        *(("a/b", True), ("a/b@main", True), ("a/b@v2", True), (f"a/b@{COMMIT}", True)),
        *((f"a/b@{COMMIT[:7]}", True), (f"a/b@{OTHER}", False), ("a/b@0000000", False)),
        ("a/c", False),
    ],
)
def test_a_commit_may_be_what_a_branch_asks_for(asked: str, fits: bool) -> None:
    found = HubModel.asked(asked)
    assert found is not None
    assert found.may_be(HubModel(repo="a/b", revision=COMMIT)) is fits


def test_a_run_knows_its_model_in_another_cache(tmp_path: Path) -> None:
    """Its run.yaml names a folder, as it always has, and says in a comment which model that is."""

    def write(path: str) -> str | None:
        config = compose([f"model.path={path}"])
        write_run_yaml(config, path=tmp_path / "run.yaml")
        return read_run_yaml(tmp_path / "run.yaml").model.path

    first = f"/old/hub/models--a--b/snapshots/{COMMIT}"
    assert write(first) == first
    assert f"# model.path is a/b@{COMMIT} of the" in (tmp_path / "run.yaml").read_text()
    moved = f"/new/hub/models--a--b/snapshots/{COMMIT}"
    assert write(moved) == moved
    for other in (f"/new/hub/models--a--b/snapshots/{OTHER}", "/models/b"):
        with pytest.raises(ConfigError, match=f"model.path: was a/b@{COMMIT}, now"):
            write(other)
