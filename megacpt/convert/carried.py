# SPDX-License-Identifier: Apache-2.0
"""Which files of the base model's folder travel with the trained weights: all but those that hold
weights or say how they are held. Chosen by what they are, so that files nobody has thought of
(licences, policies, chat templates, code that ``auto_map`` names) come along."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from megacpt.errors import ModelError

WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.distcp"),
    *("*.h5", "*.keras", "*.msgpack", "*.ot", "*.npz", "*.npy", "*.pdparams", "*.nemo"),
    *("*.gguf", "*.ggml", "*.onnx", "*.onnx_data*", "*.onnx.data", "*.ort", "*.tflite"),
    *("*.mlmodel", "*.mlpackage", "*.llamafile", "*.engine", "*.litertlm", "*.task", "*.tar"),
)
"""The base model's values, in safetensors, as pickles or for other programs."""
ABOUT_WEIGHTS = (
    *("config.json", "*.index.json", "params.json", "adapter_config.json", "certificate.json"),
    *("*quant*.json", "recipe.yaml"),
)
"""How the base model's values are stored and what they compute: the export speaks of its own."""
_BEGINNINGS = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"GGUF", b"\x89HDF")
"""Of pickles, GGUF and HDF5, whatever the file is called."""


def carry_over(source: Path, *, folder: Path) -> None:
    """Copy them, links resolved, to the same places below ``folder``."""
    try:
        for path in sorted(_carried(source)):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    except OSError as error:
        if error.filename is None or not Path(error.filename).is_relative_to(source):
            raise
        raise ModelError(_unreadable(Path(error.filename), error=error)) from error


def _unreadable(path: Path, *, error: OSError) -> str:
    if path.is_symlink() and not path.exists():
        return (
            f"{path} is a link to {path.readlink()}, which does not exist; "
            "copy the file itself, delete the link, or download the model again."
        )
    return f"{path} cannot be read: {error.strerror}; check its permissions."


def _carried(source: Path) -> list[Path]:
    """A subfolder in which weights lie is another form of the model: all that it holds stays."""
    files = list(_files(source))
    of_weights = [path for path in files if _holds_weights(path)]
    others = {folder for path in of_weights for folder in path.parents} - {source, *source.parents}
    return [
        path
        for path in files
        if path not in of_weights
        and not _matches(path, patterns=ABOUT_WEIGHTS)
        and others.isdisjoint(path.parents)
    ]


def _files(folder: Path, *, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All but what is hidden, which is of caches and tools; a link to a folder above has no end."""
    above = (*above, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir():
            if path.resolve() not in above:
                yield from _files(path, above=above)
        elif path.is_file() or path.is_symlink():
            yield path


def _holds_weights(path: Path) -> bool:
    if _matches(path, patterns=WEIGHTS):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(100)
    # torch.save writes a zip whose first member is a pickle.
    return start.startswith(_BEGINNINGS) or (start.startswith(b"PK") and b"data.pkl" in start)


def _matches(path: Path, *, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.name.lower(), pattern) for pattern in patterns)
