# SPDX-License-Identifier: Apache-2.0
"""Which tensors a Hugging Face folder stores: of its files the ones that transformers would read.
Only their heads are looked at. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from megacpt.errors import ModelError
from megacpt.families.hf_config import HfConfig

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_NAMED_BY_CONFIG = "transformers_weights"
_LFS_POINTER = b"version https://git-lfs"
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pth", "*.pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor as it lies in a file."""

    file: Path
    dtype: str
    """As safetensors writes it: BF16, F8_E4M3."""
    shape: tuple[int, ...]


def has_weights(folder: Path) -> bool:
    """Whether all files are there that transformers would read, whole or not; of a model of the hub
    the index comes before them."""
    entry = _entry(folder)
    if entry is None or entry.suffix != ".json":
        return entry is not None
    return all(file.exists() for file in _named_by(entry).values())


def read_stored(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder by name; ModelError says what is wrong with its files."""
    entry = _entry(folder)
    if entry is None:
        raise ModelError(
            f"{folder} has neither {SINGLE} nor {INDEX}{_what_is_there(folder)}; "
            "save the model again with transformers' save_pretrained, which writes safetensors."
        )
    if entry.suffix != ".json":
        return _head(entry)
    placed = _read_index(entry)
    stored: dict[str, Stored] = {}
    for file in sorted(set(placed.values())):
        stored |= _head(file)
    for name, file in placed.items():
        if name not in stored:
            raise ModelError(
                f"{file} lacks {name}, which {entry.name} places there; download the model again."
            )
    return stored


def placed_by_index(folder: Path) -> dict[str, str]:
    """The name of the file of each tensor, where the folder has an index, if not the files."""
    path = folder / INDEX
    return {name: file.name for name, file in _named_by(path).items()} if path.is_file() else {}


def stored_names(folder: Path) -> Iterable[str] | None:
    """Those of the tensors, as far as they are there to be read: a model of the hub has its index
    before its weights; ``None``: not known."""
    entry = _entry(folder)
    if entry is None:
        return None
    return _named_by(entry) if entry.suffix == ".json" else _head(entry)


def _entry(folder: Path) -> Path | None:
    """The file that transformers begins with: the config's choice, the whole model, its index."""
    named = HfConfig.read(folder).values.get(_NAMED_BY_CONFIG)
    if named is not None:
        return _present(folder / str(named), named_by=f"config.json ({_NAMED_BY_CONFIG})")
    for name in (SINGLE, INDEX):
        path = folder / name
        if path.exists() or path.is_symlink():
            return _present(path, named_by="")
    return None


def _present(path: Path, *, named_by: str) -> Path:
    if path.exists():
        return path
    if path.is_symlink():
        raise ModelError(
            f"{path} is a link to {path.readlink()}, which does not exist; "
            "copy the files themselves, or download the model again."
        )
    raise ModelError(
        f"{path}, which {named_by} names, is missing{_what_is_there(path.parent)}; "
        "download it again."
    )


def _what_is_there(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        return " (it holds an adapter: load it with peft, merge_and_unload)"
    found = sorted({path.name for p in _OTHER_WEIGHTS for path in folder.glob(p)})
    shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    return f" (weights that are there: {shown})" if found else ""


def _read_index(path: Path) -> dict[str, Path]:
    files = _named_by(path)
    for file in sorted(set(files.values())):
        _present(file, named_by=path.name)
    return files


def _named_by(path: Path) -> dict[str, Path]:
    """The file of each tensor that an index names."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): path.parent / str(file) for name, file in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a safetensors index ({error!r}); download it again."
        ) from error


def _head(path: Path) -> dict[str, Stored]:
    try:
        # numpy only names what a tensor would become; none is read.
        with safe_open(str(path), framework="np") as file:
            names = file.keys()
            return {name: _stored(file.get_slice(name), file=path) for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelError(_why_not_whole(path, error=error)) from error


def _stored(found: Any, *, file: Path) -> Stored:
    return Stored(file=file, dtype=str(found.get_dtype()), shape=tuple(found.get_shape()))


def _why_not_whole(path: Path, *, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path} cannot be read: {error.strerror}; check its permissions."
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return f"{path} is a pointer of Git LFS, not the weights; run: git lfs pull"
    return f"{path} is not a whole safetensors file ({error}); download it again."
