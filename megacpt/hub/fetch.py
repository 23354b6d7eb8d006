# SPDX-License-Identifier: Apache-2.0
"""A model of the Hugging Face hub as a folder: what a run reads of it, each file fetched once.

The files lie in the hub's own cache (HF_HUB_CACHE), where every other program finds them too.
Names, access and small files are left to huggingface_hub. Weights come into that cache by
megacpt.hub.large_files: newer versions begin a large file anew when a process has been ended.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

from megacpt.config.hub_model import HubModel
from megacpt.errors import EnvironmentError_, ModelError
from megacpt.families import FAMILIES
from megacpt.families.stored.files import INDEX, SINGLE
from megacpt.hub.large_files import LargeFile, Progress, arrived, fetch_large
from megacpt.hub.problems import UNREACHABLE, problem_of, reason_of, telling
from megacpt.text import listed, memory_size, text_size

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
ENDINGS = (".json", ".txt", ".model", ".tiktoken", ".jinja")
LEGAL = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY", "README.MD")
"""The card says which licence it is, where no file does."""
MANY = 3
"""Names of files that a message holds."""
TEMPLATES = "additional_chat_templates/"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str
    size: int
    sha256: str | None
    """Of a file that is not in git itself but in a store for large ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    model: HubModel
    """At its commit."""
    files: Mapping[str, _File]

    @property
    def small(self) -> list[str]:
        """What is read of every model; config.json first and tokenizer.json last, so that a folder
        which has both has all."""
        found = [n for n in self.files if _is_wanted(n) and not (n == INDEX and self.has(SINGLE))]
        return sorted(found, key=lambda name: (name != CONFIG, name == TOKENIZER, name))

    def has(self, *names: str) -> bool:
        return all(name in self.files for name in names)


def fetch(
    model: HubModel, *, called: str, pretrained: bool, note: Callable[[str], None], online: bool
) -> Path:
    """The model's folder with all but its weights; where they are needed, the hub must have them.

    Not ``online``, or where the hub gives no answer, the folder is the one the cache has.
    """
    kept = _kept(model)
    if not online:
        if kept is None or (pretrained and not holds_weights(kept)):
            raise _absent(model, called=called)
        return kept
    try:
        listing = _list(model)
    except UNREACHABLE as error:
        if kept is None or isinstance(error, RevisionNotFoundError):
            raise problem_of(error, model=model, called=called) from error
        if not isinstance(error, OfflineModeIsEnabled):
            why = reason_of(error, model=model)
            note(f"{called}: {why}. Going on with commit {kept.name}, which the cache has.")
        return kept
    _require_files(listing, called=called, pretrained=pretrained)
    with telling(model, called=called):
        folder = _fetch_small(listing, asked=model)
    _refuse_own_code(folder, listing=listing, called=called, is_model=pretrained)
    if pretrained:
        _require_space(_weights(listing, folder=folder), folder=folder)
    return folder


def fetch_weights(folder: Path, *, note: Callable[[str], None], progress: Progress) -> None:
    """Bring the weights into a folder that ``fetch`` has made; an interrupted one goes on."""
    model = HubModel.stored(str(folder))
    if model is None or holds_weights(folder):
        return
    with telling(model, called=f"model.path={model}"):
        wanted = _weights(_list(model), folder=folder)
        _require_space(wanted, folder=folder)
        size = text_size(sum(file.size for file in wanted))
        note(f"Downloading {model}: {size} of weights to {folder}")
        fetch_large(_large(wanted), model=model, blobs=_blobs(folder), progress=progress)
        # It finds what has come, and gives it its name in the folder.
        for file in wanted:
            _download(file.name, model=model)


def missing_bytes(folder: Path) -> int:
    """What ``fetch_weights`` would bring."""
    model = HubModel.stored(str(folder))
    if model is None or holds_weights(folder):
        return 0
    with telling(model, called=f"model.path={model}"):
        return sum(file.size for file in _weights(_list(model), folder=folder))


def is_whole(folder: Path) -> bool:
    """Whether all but the weights is there (``_Listing.small``)."""
    return (folder / TOKENIZER).exists() or any(
        path.suffix in (".model", ".tiktoken") for path in folder.glob("*")
    )


def holds_weights(folder: Path) -> bool:
    return (folder / SINGLE).exists() or (
        (folder / INDEX).exists() and all((folder / name).exists() for name in _shards(folder))
    )


def _is_wanted(name: str) -> bool:
    """Never pickles, nor the copies for other programs that lie in folders of their own."""
    if name.startswith(TEMPLATES):
        return name.endswith(".jinja")
    return "/" not in name and (name.endswith(ENDINGS) or name.upper().startswith(LEGAL))


def _kept(model: HubModel) -> Path | None:
    for name in (CONFIG, TOKENIZER):
        found = try_to_load_from_cache(model.repo, name, revision=model.revision)
        if isinstance(found, str) and is_whole(Path(found).parent):
            return Path(found).parent.absolute()
    return None


def _absent(model: HubModel, *, called: str) -> EnvironmentError_:
    return EnvironmentError_(
        f"{called}: the hub's cache here ({constants.HF_HUB_CACHE}) does not hold {model}, and a "
        "rank downloads nothing; use megacpt launch, or run `megacpt train` once where there is a "
        "network, with HF_HOME in a folder that all nodes see."
    )


def _list(model: HubModel) -> _Listing:
    info = HfApi().model_info(
        model.repo,
        revision=model.revision,
        files_metadata=True,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
    )
    files = {
        file.rfilename: _File(
            name=file.rfilename,
            size=file.size or 0,
            sha256=file.lfs.sha256 if file.lfs is not None else None,
        )
        for file in info.siblings or []
    }
    return _Listing(model=replace(model, revision=info.sha), files=files)


def _require_files(listing: _Listing, *, called: str, pretrained: bool) -> None:
    if not listing.small or (pretrained and not listing.has(CONFIG)):
        raise ModelError(
            f"{called}: the hub's repository {listing.model} has no config.json (it has "
            f"{_some(listing.files)}), so it is no model for transformers; name one that has."
        )
    if pretrained and not listing.has(SINGLE) and not listing.has(INDEX):
        raise ModelError(
            f"{called}: the hub's repository {listing.model} has no {SINGLE} (it has "
            f"{_some(listing.files)}), and no other weights are read; name a revision or a "
            "repository with safetensors, or save the model with transformers' save_pretrained and "
            "give that folder."
        )


def _some(names: Iterable[str]) -> str:
    """The files that tell most of what a repository holds."""
    told = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".gguf", ".safetensors", ".h5"))]
    shown = told or [name for name in names if not name.startswith(".")]
    if len(shown) > MANY:
        shown = [*shown[:MANY], f"{len(shown) - MANY} more"]
    return listed(shown or ["no files"])


def _fetch_small(listing: _Listing, *, asked: HubModel) -> Path:
    names = listing.small
    # Under the name that was asked for, as that is how the cache knows it when there is no network.
    path = _download(names[0], model=asked)
    if path.parent.name != listing.model.revision:
        # A branch that moved in this moment.
        path = _download(names[0], model=listing.model)
    fetch_large(
        _large(listing.files[name] for name in names if not (path.parent / name).exists()),
        model=listing.model,
        blobs=_blobs(path.parent),
        progress=lambda done, total: None,
    )
    for name in names[1:]:
        _download(name, model=listing.model)
    for name in sorted(_code_files(path.parent) & listing.files.keys()):
        _download(name, model=listing.model)
    return path.parent


def _download(name: str, *, model: HubModel) -> Path:
    return Path(hf_hub_download(model.repo, name, revision=model.revision)).absolute()


def _own_code(path: Path) -> list[str]:
    """The classes that a JSON file of the folder asks to be loaded from code beside it."""
    content: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = content.get("auto_map") if isinstance(content, dict) else None
    named = found.values() if isinstance(found, dict) else found if isinstance(found, list) else []
    flat = [n for each in named for n in (each if isinstance(each, list) else [each])]
    return [name for name in flat if isinstance(name, str)]


def _code_files(folder: Path) -> set[str]:
    """The export carries them over; they are never run."""
    classes = _own_code(folder / CONFIG) + _own_code(folder / "tokenizer_config.json")
    return {f"{name.rpartition('.')[0]}.py" for name in classes if "--" not in name}


def _refuse_own_code(folder: Path, *, listing: _Listing, called: str, is_model: bool) -> None:
    """Models and tokenizers that transformers itself would load with trust_remote_code alone."""
    needed = []
    if is_model:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("model_type") not in FAMILIES:
            needed = _own_code(folder / CONFIG)
    if not is_whole(folder):
        needed = needed or _own_code(folder / "tokenizer_config.json")
    if needed:
        raise ModelError(
            f"{called}: the hub's repository {listing.model} needs code of its own "
            f"(trust_remote_code: {needed[0]}), which megacpt never runs; name a model of the "
            f"families {listed(sorted(FAMILIES))}, with a tokenizer.json."
        )


def _weights(listing: _Listing, *, folder: Path) -> list[_File]:
    """The files that a reader of the folder opens, not those already here."""
    names = [SINGLE] if listing.has(SINGLE) else _shards(folder)
    missing = [name for name in names if name not in listing.files]
    if missing:
        raise ModelError(
            f"{listing.model} lacks {missing[0]}, which its {INDEX} names; name another revision."
        )
    return [listing.files[name] for name in names if not (folder / name).exists()]


def _shards(folder: Path) -> list[str]:
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return sorted({str(name) for name in content["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder / INDEX} is not a safetensors index ({error!r}); name another revision."
        ) from error


def _large(files: Iterable[_File]) -> list[LargeFile]:
    """Those that plain HTTP serves: small ones are not worth it, and huge ones need hf_xet."""
    return [
        LargeFile(name=file.name, size=file.size, sha256=file.sha256)
        for file in files
        if file.sha256 is not None and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE
    ]


def _require_space(wanted: Sequence[_File], *, folder: Path) -> None:
    here = sum(arrived(file, blobs=_blobs(folder)) for file in _large(wanted))
    free, needed = shutil.disk_usage(folder).free, sum(file.size for file in wanted) - here
    if needed > free:
        raise EnvironmentError_(
            f"The weights of {HubModel.stored(str(folder))} need {memory_size(needed)}, but the "
            f"disk of {folder.parents[2]} has {memory_size(free)} free; make room, or set HF_HOME "
            "to a folder on a larger disk."
        )


def _blobs(folder: Path) -> Path:
    """Where the hub's cache keeps the contents of a repository's files."""
    return folder.parents[1] / "blobs"
