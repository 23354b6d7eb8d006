# SPDX-License-Identifier: Apache-2.0
"""One model from one form into another: planned to the byte, written aside, then one rename.

What is written so far stays aside after an interruption, beside a note of what it was to become;
the same conversion goes on from there, another one begins anew. The source is only read.
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import torch

from megacpt.checkpoint import verify
from megacpt.checkpoint.manifest import FileSum
from megacpt.config.sections import Dtype
from megacpt.convert import safetensors_files
from megacpt.convert.carried import carry_over
from megacpt.convert.described import write_descriptions, write_json
from megacpt.convert.folder_tensors import folder_tensors
from megacpt.convert.native import writer
from megacpt.convert.sources import TORCH_DTYPES, SourceModel
from megacpt.convert.stream import OutputFile, Progress, unwritten_bytes, write_files
from megacpt.errors import CheckpointError, ConfigError, EnvironmentError_
from megacpt.families.stored.files import INDEX, SINGLE
from megacpt.files import publish, require_new, write_text
from megacpt.text import text_size

DESCRIBED = "hf"
"""Of a native checkpoint: all of the model's folder that is no weight."""
NOTE, LOCK = "conversion.json", "conversion.lock"


class Form(Enum):
    """What a model is written as."""

    hf = "hf"
    """A Hugging Face folder."""
    native = "native"
    """A checkpoint that a run of any layout begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What is to be made of a source."""

    source: SourceModel
    form: Form
    destination: Path
    dtype: Dtype | None = None
    """None: each tensor keeps its own type."""
    shard_bytes_max: int = safetensors_files.SHARD_BYTES_MAX
    """Where the source has no files of its own to follow."""
    finish: Callable[[Path], object] = lambda folder: None
    """Called with the whole folder before it gets its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What has been written."""

    bytes: int
    files: int
    elapsed_s: float
    resumed_bytes: int
    """Of an earlier start that was interrupted."""


class _Complete(Protocol):
    def __call__(self, folder: Path, *, sums: Mapping[str, FileSum]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The large files, and what makes a whole of them."""

    files: Sequence[OutputFile]
    complete: _Complete


def convert(conversion: Conversion, *, progress: Progress = lambda done, total: None) -> Converted:
    """``EnvironmentError_`` where the destination is taken, is being written or has no room."""
    require_place(conversion)
    plan = _planned(conversion)
    started_at = time.monotonic()
    with explained(conversion), _aside(conversion, files=plan.files) as partial:
        left = unwritten_bytes(plan.files, folder=partial)
        require_room(left, folder=partial.parent)
        sums = _write(conversion.source, files=plan.files, folder=partial, progress=progress)
        plan.complete(partial, sums=sums)
        for name in (NOTE, LOCK):
            (partial / name).unlink()
        conversion.finish(partial)
        publish(partial, folder=conversion.destination)
    total = sum(file.bytes for file in plan.files)
    return Converted(
        bytes=total,
        files=len(plan.files),
        elapsed_s=time.monotonic() - started_at,
        resumed_bytes=total - left,
    )


def require_place(conversion: Conversion) -> None:
    """Of the destination: nothing is there, and it lies outside of what is read."""
    require_new(conversion.destination)
    folder = conversion.source.folder
    if conversion.destination.resolve().is_relative_to(folder.resolve()):
        raise EnvironmentError_(
            f"{conversion.destination} lies in {folder}, which is only read; choose a folder "
            "beside it."
        )


def partial_folder(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.partial")


def planned_files(conversion: Conversion) -> Sequence[OutputFile]:
    """The large ones, as ``convert`` would write them."""
    return _planned(conversion).files


def bytes_left(conversion: Conversion, *, files: Sequence[OutputFile]) -> int:
    """What of them an earlier start of the same conversion has not written."""
    partial = partial_folder(conversion.destination)
    begun = _has_note(partial, note=_note(conversion, files=files))
    return unwritten_bytes(files, folder=partial) if begun else sum(file.bytes for file in files)


@contextmanager
def explained(conversion: Conversion) -> Iterator[None]:
    """What the disk refuses, as an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise EnvironmentError_(
            f"{error.filename or conversion.destination}: {error.strerror or error}; see to it "
            f"that {conversion.source.folder} can be read and {conversion.destination} be written. "
            "The same command goes on from what is written."
        ) from error


def _planned(conversion: Conversion) -> _Plan:
    return _native(conversion) if conversion.form is Form.native else _hf(conversion)


def _native(conversion: Conversion) -> _Plan:
    source = conversion.source
    plan = writer.planned(source, dtype=_torch_dtype(conversion))

    def complete(folder: Path, *, sums: Mapping[str, FileSum]) -> None:
        described = folder / DESCRIBED
        described.mkdir(exist_ok=True)
        carry_over(source.described_by, folder=described)
        shutil.copyfile(source.described_by / "config.json", described / "config.json")
        if source.files and set(source.files.values()) != {SINGLE}:
            write_json(described / INDEX, content={"weight_map": dict(source.files)})
        names = [str(p.relative_to(folder)) for p in described.rglob("*") if p.is_file()]
        plan.complete(folder, sums={**sums, **verify.sums_of(folder, names=names)})

    return _Plan(files=plan.files, complete=complete)


def _hf(conversion: Conversion) -> _Plan:
    source, dtype = conversion.source, _torch_dtype(conversion)
    tensors = folder_tensors(
        source.tensors,
        architecture=source.architecture,
        described_by=source.described_by,
        dtype=dtype,
    )
    files = safetensors_files.planned(
        tensors, placed=source.files, shard_bytes_max=conversion.shard_bytes_max
    )
    stated = conversion.dtype or _common_dtype(source)

    def complete(folder: Path, **_: object) -> None:
        carry_over(source.described_by, folder=folder)
        safetensors_files.write_index(files, folder=folder)
        write_descriptions(
            source.described_by, folder=folder, architecture=source.architecture, dtype=stated
        )

    return _Plan(files=files, complete=complete)


def _torch_dtype(conversion: Conversion) -> torch.dtype | None:
    return TORCH_DTYPES[conversion.dtype] if conversion.dtype is not None else None


def _common_dtype(source: SourceModel) -> Dtype:
    """Of most values, as config.json states it."""
    values: Counter[torch.dtype] = Counter()
    for tensor in source.tensors.values():
        values[tensor.dtype] += math.prod(tensor.shape)
    ((most, _),) = values.most_common(1)
    found = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items()}.get(most)
    if found is None:
        raise ConfigError(f"{source.folder} is of type {most}; name another with --dtype bf16.")
    return found


def require_room(needed: int, *, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EnvironmentError_(
            f"{folder} has {text_size(free)} free, and {text_size(needed)} are to be "
            "written; make room, or choose a folder on a larger disk."
        )


@contextmanager
def _aside(conversion: Conversion, *, files: Sequence[OutputFile]) -> Iterator[Path]:
    """The folder that is written, this process's alone; what lies there is of this conversion."""
    partial = partial_folder(conversion.destination)
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentError_(
                f"{conversion.destination} is being written by another process; wait for it, or "
                "choose another folder."
            ) from error
        _keep_what_fits(partial, note=_note(conversion, files=files))
        yield partial


def _keep_what_fits(partial: Path, *, note: str) -> None:
    """Clear the folder unless it was begun by the same conversion."""
    if _has_note(partial, note=note):
        return
    for found in partial.iterdir():
        if found.is_dir():
            shutil.rmtree(found)
        elif found.name != LOCK:
            found.unlink()
    write_text(partial / NOTE, text=note)


def _has_note(partial: Path, *, note: str) -> bool:
    path = partial / NOTE
    return path.is_file() and path.read_text(encoding="utf-8") == note


def _note(conversion: Conversion, *, files: Sequence[OutputFile]) -> str:
    """What tells one conversion from another: the files read, and every byte's place in those
    written."""
    read = {
        str(path): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(conversion.source.folder.rglob("*"))
        if path.is_file()
    }
    heads = [[file.name, file.bytes, zlib.crc32(file.head)] for file in files]
    dtype = str(_torch_dtype(conversion))
    return json.dumps({"read": read, "dtype": dtype, "files": heads}, indent=1) + "\n"


def _write(
    source: SourceModel, *, files: Sequence[OutputFile], folder: Path, progress: Progress
) -> Mapping[str, FileSum]:
    try:
        with source.proving():
            return write_files(files, folder=folder, progress=progress)
    except CheckpointError:
        # What is made of a damaged source is nothing to go on from.
        shutil.rmtree(folder)
        raise
