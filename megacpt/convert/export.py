# SPDX-License-Identifier: Apache-2.0
"""Write the native model as a Hugging Face folder: aside, onto the disk, then one rename."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from megacpt.config.sections import Dtype
from megacpt.convert.carried import carry_over
from megacpt.convert.certificate import CERTIFICATE
from megacpt.convert.described import write_descriptions
from megacpt.convert.folder_tensors import folder_tensors
from megacpt.convert.in_memory import model_tensors
from megacpt.convert.safetensors_files import write_tensors
from megacpt.convert.sources import TORCH_DTYPES
from megacpt.errors import EnvironmentError_
from megacpt.families.architecture import Architecture
from megacpt.families.stored.files import placed_by_index
from megacpt.files import empty_aside, publish, sync_all


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
    with written_aside(output, mark=CERTIFICATE) as aside:
        carry_over(source_folder, folder=aside)
        write_descriptions(source_folder, folder=aside, architecture=architecture, dtype=dtype)
        tensors = folder_tensors(
            model_tensors(chunks, architecture=architecture),
            architecture=architecture,
            described_by=source_folder,
            dtype=TORCH_DTYPES[dtype],
        )
        write_tensors(tensors, folder=aside, placed=placed_by_index(source_folder))
        if describe is not None:
            describe(aside)
        if certify is not None:
            certify(aside)
    return output


@contextmanager
def written_aside(output: Path, *, mark: str) -> Iterator[Path]:
    """An empty folder that gets the name ``output`` once all is in it. An earlier one there, which
    has a file called ``mark``, is replaced; any other folder is refused."""
    _require_replaceable(output, mark=mark)
    with empty_aside(output, refused_by=(OSError, SafetensorError)) as aside:
        yield aside
        _publish(aside, output=output)


def _require_replaceable(output: Path, *, mark: str) -> None:
    if output.exists() and not (output / mark).exists():
        if output.is_dir() and not any(output.iterdir()):
            return
        raise EnvironmentError_(
            f"{output} exists and is not an earlier export (it has no {mark}); "
            "choose another folder (--output FOLDER)."
        )


def _publish(aside: Path, *, output: Path) -> None:
    """Flush every file, then swap the folder in; an earlier export goes last."""
    replaced = output.with_name(f".{output.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    sync_all(aside)  # Before, so that the name is free for a moment only.
    if output.exists():
        output.rename(replaced)
    publish(aside, folder=output)
    shutil.rmtree(replaced, ignore_errors=True)
