# SPDX-License-Identifier: Apache-2.0
"""Read slices of the tensors in a Hugging Face folder, one or many safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from megacpt.errors import ModelError
from megacpt.families.weights import Part

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
READABLE_DTYPES = {"F32", "BF16", "F16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HfTensors:
    """Tensor name -> file. Files are mapped while one tensor is read, then let go, so that the
    pages of a tensor already copied do not count against the next one."""

    files: Mapping[str, Path]
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Tensors that are parts of larger ones; ``files`` lists them and not the larger ones."""

    @classmethod
    def of_folder(cls, folder: Path, *, parts: Mapping[str, Part] | None = None) -> HfTensors:
        """``parts``: where a tensor is that the folder lacks under its own name."""
        files = cls._files_of(folder)
        used = {n: p for n, p in (parts or {}).items() if n not in files and p.name in files}
        wholes = {part.name for part in used.values()}
        named = {name: file for name, file in files.items() if name not in wholes}
        return cls(files=named | {n: files[p.name] for n, p in used.items()}, parts=used)

    def without(self, name: str) -> HfTensors:
        return replace(self, files={n: file for n, file in self.files.items() if n != name})

    @staticmethod
    def _files_of(folder: Path) -> dict[str, Path]:
        if (folder / INDEX).exists():
            return _read_index(folder / INDEX)
        single = folder / SINGLE
        if not single.exists():
            raise ModelError(
                f"{folder} has neither {SINGLE} nor {INDEX}; "
                "save the model again with transformers' save_pretrained, which writes safetensors."
            )
        with _opened(single) as file:
            return dict.fromkeys(file.keys(), single)

    def read(
        self,
        name: str,
        *,
        shape: tuple[int, ...],
        dim: int | None = None,
        span: slice | None = None,
    ) -> torch.Tensor:
        """The tensor, or its ``span`` along ``dim``; ``shape`` is what the whole must be."""
        part = self.parts.get(name, Part(name=name, shape=shape))
        with _opened(self.files[name]) as file:
            try:
                found = file.get_slice(part.name)
            except SafetensorError as error:
                raise ModelError(
                    f"{self.files[name]} lacks {part.name}, which {INDEX} places there; "
                    "download the model again."
                ) from error
            self._check(part.name, found=found, shape=part.shape, file=self.files[name])
            where = part.where(shape, dim=dim, span=span)
            tensor: torch.Tensor = found[where] if where else file.get_tensor(part.name)
            return tensor if part.index is None else tensor.squeeze(0)

    @staticmethod
    def _check(name: str, *, found: Any, shape: tuple[int, ...], file: Path) -> None:
        if tuple(found.get_shape()) != shape:
            raise ModelError(
                f"{name} in {file} must have shape {list(shape)}, which config.json "
                f"states, but has {found.get_shape()}; use the config.json of this model."
            )
        if found.get_dtype() not in READABLE_DTYPES:
            raise ModelError(
                f"{name} in {file} must be of type F32, BF16 or F16, but is "
                f"{found.get_dtype()}; use the unquantised model."
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        opened = safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}); download it again."
        ) from error
    with opened as file:
        yield file


def _read_index(path: Path) -> dict[str, Path]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): path.parent / str(file) for name, file in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a safetensors index ({error!r}); download it again."
        ) from error
    for file in sorted(set(files.values())):
        if not file.exists():
            raise ModelError(f"{file}, which {path.name} names, is missing; download it again.")
    return files


def require_names(
    tensors: HfTensors, *, expected: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    """Neither a tensor too few nor one too many: each would change the model silently."""
    missing = [name for name in expected if name not in tensors.files]
    if missing:
        raise ModelError(
            f"{folder} has no tensor {missing[0]}{_others(missing)}, which its config.json "
            "asks for; download the model again, or use the config.json of this model."
        )
    extra = [
        n for n in tensors.files if n not in expected and not n.endswith("rotary_emb.inv_freq")
    ]
    if extra:
        raise ModelError(
            f"{folder} has a tensor {extra[0]}{_others(extra)} that its config.json gives "
            "no place; use the config.json of this model."
        )


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
