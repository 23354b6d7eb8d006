# SPDX-License-Identifier: Apache-2.0
"""Models of the hub as folders, beside what huggingface_hub and transformers make of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from huggingface_hub import constants, hf_hub_download, snapshot_download

from megacpt.config.hub_model import HubModel
from megacpt.errors import EnvironmentError_, ModelError
from megacpt.families import read_architecture
from megacpt.hub.fetch import fetch, fetch_weights, holds_weights
from megacpt.tokenizer import load_tokenizer
from tests.hub_server import HubServer, Repo
from tests.support import LLAMA, write_model_folder

WEIGHTS = random.Random(1).randbytes(300_000)
OWN_CODE = {"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "a/b--configuration_x.X"}


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """config.json and tokenizer."""
    folder = write_model_folder(tmp_path_factory.mktemp("model") / "tiny")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def index(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"t{i}": name for i, name in enumerate(names)}}).encode()


def config(**changes: object) -> bytes:
    return json.dumps(LLAMA | changes).encode()


def bring(
    text: str,
    *,
    pretrained: bool = True,
    online: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    model = HubModel.asked(text)
    assert model is not None
    folder = fetch(
        model, called=f"model.path={text}", pretrained=pretrained, note=note, online=online
    )
    if pretrained and online:
        fetch_weights(folder, note=note, progress=lambda done, total: None)
    return folder


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
OTHERS = {
    "pytorch_model.bin": b"pickle",
    "training_args.pt": b"pickle",
    "model-q4.gguf": b"gguf",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "original/consolidated.00.pth": b"pth",
    "original/tokenizer.model": b"spm",
    "runs/events.txt": b"x",
    "setup.py": b"import os",
    "consolidated.safetensors": b"the same weights again",
    ".gitattributes": b"",
}
READ = {
    "model.safetensors": WEIGHTS,
    "generation_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "chat_template.jinja": b"D",
    "additional_chat_templates/tool_use.jinja": b"T",
    "LICENSE": b"the licence",
    "USE_POLICY.md": b"the policy",
    "Notice.txt": b"the notice",
    "README.md": b"---\nlicense: mit\n---\n",
}
CASES: dict[str, tuple[dict[str, bytes], set[str]]] = {
    "alone": ({"model.safetensors": WEIGHTS}, {"model.safetensors"}),
    "with all that is read": (READ, set(READ)),
    "with what others read": (OTHERS | {"model.safetensors": WEIGHTS}, {"model.safetensors"}),
    "in shards": (
        OTHERS
        | {"model.safetensors.index.json": index(*SHARDS), SHARDS[0]: WEIGHTS, SHARDS[1]: b"rest"},
        {"model.safetensors.index.json", *SHARDS},
    ),
    # transformers takes the single file too.
    "in one file, with an index of other files": (
        {"model.safetensors.index.json": index(*SHARDS), "model.safetensors": WEIGHTS},
        {"model.safetensors"},
    ),
    "of a known type, with code": (
        {
            "config.json": config(auto_map=OWN_CODE),
            "modeling_x.py": b"import torch",
            "model.safetensors": WEIGHTS,
        },
        {"modeling_x.py", "model.safetensors"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_comes_and_nothing_else(
    name: str, hub: HubServer, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    files, wanted = CASES[name]
    hub.repos["org/tiny"] = Repo()
    commit = hub.repos["org/tiny"].commit(model_files | files)
    folder = bring("org/tiny")
    assert folder == tmp_path / "cache" / "models--org--tiny" / "snapshots" / commit
    assert names_in(folder) == wanted | set(model_files)
    assert holds_weights(folder)
    oracle = Path(snapshot_download("org/tiny", cache_dir=tmp_path / "oracle"))
    assert names_in(oracle) == set(model_files | files)
    for file in names_in(folder):
        assert (folder / file).read_bytes() == (oracle / file).read_bytes()
    # Where there is no network, the hub's own client finds them under the name that was asked for.
    for file in names_in(folder):
        assert hf_hub_download("org/tiny", file, local_files_only=True) == str(folder / file)


def test_a_model_is_downloaded_once(hub: HubServer, model_files: dict[str, bytes]) -> None:
    hub.repos["org/tiny"] = Repo()
    hub.repos["org/tiny"].commit(model_files | READ)
    first = bring("org/tiny")
    hub.requests.clear()
    assert bring("org/tiny") == first
    assert hub.downloads() == []


def test_without_weights_none_come(hub: HubServer, model_files: dict[str, bytes]) -> None:
    """With model.init=random, or of a tokenizer, a repository may even have none."""
    hub.repos["org/tiny"] = Repo()
    hub.repos["org/tiny"].commit(model_files | READ)
    hub.repos["org/tokenizer"] = Repo()
    del (only := dict(model_files))["config.json"]
    hub.repos["org/tokenizer"].commit(only)
    assert not holds_weights(bring("org/tiny", pretrained=False))
    assert names_in(bring("org/tokenizer", pretrained=False)) == set(only)


@pytest.mark.slow
def test_transformers_reads_the_same_offline(
    hub: HubServer, model_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/tiny"] = Repo()
    hub.repos["org/tiny"].commit(model_files | READ)
    folder = bring("org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = {"local_files_only": True, "cache_dir": tmp_path / "cache"}
    theirs = transformers.AutoConfig.from_pretrained("org/tiny", **asked)
    assert read_architecture(folder).hidden_size == theirs.hidden_size
    tokenizer = transformers.AutoTokenizer.from_pretrained("org/tiny", **asked)
    for text in ("the law", "2024: ä", ""):
        assert load_tokenizer(folder).encode(text).tolist() == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("revision", ["", "@main", "@v1", "@refs/pr/2", "@{commit}", "@{short}"])
def test_branches_tags_and_commits_are_found(
    revision: str, hub: HubServer, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    repo = hub.repos["org/tiny"] = Repo()
    first = repo.commit(model_files | {"model.safetensors": WEIGHTS}, ref="v1")
    repo.refs["refs/pr/2"] = first
    newest = repo.commit(model_files | {"model.safetensors": WEIGHTS[:-1]})
    text = f"org/tiny{revision}".format(commit=first, short=first[:7])
    folder = bring(text)
    assert folder.name == (newest if revision in ("", "@main") else first)
    asked = HubModel.asked(text)
    assert asked is not None
    oracle = snapshot_download("org/tiny", revision=asked.revision, cache_dir=tmp_path / "oracle")
    assert Path(oracle).name == folder.name


def test_a_branch_is_asked_for_again_and_a_commit_stays(
    hub: HubServer, model_files: dict[str, bytes]
) -> None:
    repo = hub.repos["org/tiny"] = Repo()
    first = repo.commit(model_files | {"model.safetensors": WEIGHTS})
    assert bring("org/tiny").name == first
    second = repo.commit(model_files | {"model.safetensors": WEIGHTS[::-1]})
    assert bring("org/tiny").name == second
    assert bring(f"org/tiny@{first}").name == first


def test_without_a_network_the_cache_is_used_and_that_is_said(
    hub: HubServer, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.repos["org/tiny"] = Repo()
    commit = repo.commit(model_files | {"model.safetensors": WEIGHTS})
    whole = bring("org/tiny")
    notes: list[str] = []
    hub.status = 503
    assert bring("org/tiny", note=notes.append) == whole
    assert "answers HTTP 503" in notes[0]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert bring("org/tiny", note=notes.append) == whole
    assert "cannot be reached" in notes[1]
    assert f"Going on with commit {commit}, which the cache has." in notes[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bring("org/tiny", note=notes.append) == whole
    # A rank asks nobody, and finds it too.
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert bring("org/tiny", online=False, note=notes.append) == whole
    assert (len(notes), hub.requests) == (2, [])


@pytest.mark.parametrize("asked", ["org/tiny", "org/tiny@v2", "org/tiny@" + "0" * 40])
def test_a_rank_downloads_nothing(asked: str, hub: HubServer) -> None:
    with pytest.raises(EnvironmentError_, match="a rank downloads nothing; use megacpt launch"):
        bring(asked, online=False)
    assert hub.requests == []


NOT_WHOLE = {
    "pickles alone": ({"pytorch_model.bin": b"x"}, r"no model.safetensors \(it has pytorch_model"),
    "GGUF alone": ({"tiny-q4.gguf": b"x", "README.md": b""}, r"\(it has tiny-q4.gguf\)"),
    "an adapter": ({"adapter_model.safetensors": b"x"}, r"\(it has adapter_model.safetensors\)"),
    "an index without its files": (
        {"model.safetensors.index.json": index(*SHARDS), SHARDS[0]: b"x"},
        f"lacks {SHARDS[1]}, which its model.safetensors.index.json names",
    ),
    "an index that is none": (
        {"model.safetensors.index.json": b"[]"},
        "is not a safetensors index",
    ),
    "another type with code": (
        {"config.json": config(model_type="x", auto_map=OWN_CODE), "model.safetensors": WEIGHTS},
        r"needs code of its own \(trust_remote_code: modeling_x.X\), which megacpt never runs",
    ),
    "a tokenizer with code": (
        {
            "tokenizer.json": None,
            "tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}}',
            "model.safetensors": WEIGHTS,
        },
        "trust_remote_code: tokenization_x.X",
    ),
    "nothing": (
        {"config.json": None, "tokenizer.json": None, "tokenizer_config.json": None},
        r"no config.json \(it has no files\)",
    ),
    "no model": ({"config.json": None, "data.parquet": b""}, r"no config.json \(it has "),
}


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_repositories_that_cannot_be_trained_are_refused_by_name(
    name: str, hub: HubServer, model_files: dict[str, bytes]
) -> None:
    files, words = NOT_WHOLE[name]
    repo = hub.repos["org/tiny"] = Repo()
    present = {n: c for n, c in {**model_files, **files}.items() if c is not None}
    repo.commit(present)
    with pytest.raises(ModelError, match=words) as refused:
        bring("org/tiny")
    assert "org/tiny@" in str(refused.value) or "snapshots" in str(refused.value)
    assert not any(name.endswith((".bin", ".gguf", ".safetensors")) for name in hub.downloads())


def test_the_disk_is_measured_first(hub: HubServer, model_files: dict[str, bytes]) -> None:
    repo = hub.repos["org/tiny"] = Repo(claimed={"model.safetensors": 10**18})
    repo.commit(model_files | {"model.safetensors": WEIGHTS})
    with pytest.raises(EnvironmentError_, match=r"need 909,494.70 TiB, but the disk of .* has"):
        bring("org/tiny")
    assert not any(request.host == "store" for request in hub.requests)
