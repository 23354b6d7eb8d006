# SPDX-License-Identifier: Apache-2.0
"""Write the native model as a Hugging Face folder: aside, onto the disk, then one rename."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from megacpt.config.sections import Dtype
from megacpt.convert.carried import carry_over
from megacpt.convert.certificate import CERTIFICATE
from megacpt.convert.described import write_descriptions, write_json
from megacpt.errors import EnvironmentError_
from megacpt.families.architecture import Architecture
from megacpt.families.stored.files import INDEX, SINGLE
from megacpt.families.stored.places import beside_of
from megacpt.files import sync
from megacpt.model.weights import iter_hf

SHARD_BYTES_MAX = 5 * 10**9
TORCH_DTYPES = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16}

Named = tuple[str, torch.Tensor]


def export_hf(
    chunks: Sequence[Any],
    *,
    architecture: Architecture,
    source_folder: Path,
    output: Path,
    dtype: Dtype,
    describe: Callable[[Path], object] | None = None,
    certify: Callable[[Path], object] | None = None,
) -> Path:
    """Write ``output`` from chunks at tp = pp = 1, all else from ``source_folder``.

    ``describe`` adds what says how the weights came about. ``certify`` is called with the finished
    folder before it gets its name, so that a folder under that name is always whole. An earlier
    export there is replaced, any other folder is refused.
    """
    _require_replaceable(output)
    aside = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        carry_over(source_folder, folder=aside)
        write_descriptions(source_folder, folder=aside, architecture=architecture, dtype=dtype)
        write_tensors(
            _tensors(chunks, architecture=architecture, source=source_folder, dtype=dtype),
            folder=aside,
            shard_bytes_max=SHARD_BYTES_MAX,
        )
        if describe is not None:
            describe(aside)
        if certify is not None:
            certify(aside)
        _publish(aside, output=output)
    except (OSError, SafetensorError) as error:
        raise EnvironmentError_(
            f"{output} cannot be written: {error}; "
            "choose a folder with write permission and free space (--output FOLDER)."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # of an export that has failed, or was interrupted
    return output


def _tensors(
    chunks: Sequence[Any], *, architecture: Architecture, source: Path, dtype: Dtype
) -> Iterator[Named]:
    """The model's, named as in the base model's folder, and what lies there beside them."""
    beside = beside_of(source, architecture=architecture)
    for name, tensor in iter_hf(chunks, architecture=architecture):
        yield beside.naming.stored(name), tensor.to(TORCH_DTYPES[dtype])
    for name, stored in beside.tensors.items():
        with safe_open(str(stored.file), framework="pt", device="cpu") as file:
            yield name, file.get_tensor(name)


def _require_replaceable(output: Path) -> None:
    if output.exists() and not (output / CERTIFICATE).exists():
        if output.is_dir() and not any(output.iterdir()):
            return
        raise EnvironmentError_(
            f"{output} exists and is not an earlier export (it has no {CERTIFICATE}); "
            "choose another folder (--output FOLDER)."
        )


def write_tensors(tensors: Iterable[Named], *, folder: Path, shard_bytes_max: int) -> None:
    """One file, or as many as ``shard_bytes_max`` asks for with an index; one is held at a time."""
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    total = pending_bytes = 0
    for name, tensor in tensors:
        if pending and pending_bytes + tensor.nbytes > shard_bytes_max:
            _write_shard(pending, folder=folder, shards=shards)
            pending, pending_bytes = {}, 0
        pending[name] = tensor
        pending_bytes += tensor.nbytes
        total += tensor.nbytes
    _write_shard(pending, folder=folder, shards=shards)
    _name_shards(shards, folder=folder, total_bytes=total)


def _shard_path(folder: Path, *, index: int) -> Path:
    return folder / f"shard-{index}.safetensors"


def _write_shard(
    tensors: dict[str, torch.Tensor], *, folder: Path, shards: list[list[str]]
) -> None:
    on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    path = _shard_path(folder, index=len(shards))
    save_file(on_cpu, str(path), metadata={"format": "pt"})
    # safetensors makes its files private to the user, unlike the files beside them.
    path.chmod(0o644)
    shards.append(list(tensors))


def _name_shards(shards: list[list[str]], *, folder: Path, total_bytes: int) -> None:
    """Give the files the names transformers expects, now that their number is known."""
    if len(shards) == 1:
        _shard_path(folder, index=0).rename(folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        _shard_path(folder, index=index).rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(
        folder / INDEX, content={"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    )


def _publish(aside: Path, *, output: Path) -> None:
    """Flush every file, then swap the folder in; an earlier export goes last."""
    for path in [*aside.rglob("*"), aside]:
        sync(path)
    replaced = output.with_name(f".{output.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if output.exists():
        output.rename(replaced)
    aside.rename(output)
    sync(output.parent)
    shutil.rmtree(replaced, ignore_errors=True)
