# SPDX-License-Identifier: Apache-2.0
"""Read a pickle from anywhere: what it names is looked up in a short list and never imported.

Checkpoints of other trainers are pickles, or have one in front of the tensors. Loading one as
Python does runs whatever function it names. Here a name that is not listed becomes an object that
does nothing; what was needed of it is missing afterwards, which whoever needed it says.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import torch

from megacpt.errors import CheckpointError

Known = Mapping[tuple[str, str], Any]
"""(module, name) -> what stands for it."""
NONE: Known = MappingProxyType({})
_PLAIN: Known = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("pathlib", "PosixPath"): lambda *parts: "/".join(map(str, parts)),
}
_BROKEN = (
    *(pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError),
    *(AttributeError, ArithmeticError, RuntimeError),
)
"""What damaged bytes raise."""


class Inert:
    """In place of something a file names that is not listed: takes all that a pickle does to it."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def append(self, _: object) -> None:
        pass

    def __call__(self, *_: object) -> Inert:
        return self


def type_name(value: object) -> str:
    """What a file calls that which it holds."""
    kind = value if isinstance(value, type) else type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def read_pickle(
    stream: IO[bytes],
    *,
    path: Path,
    known: Known,
    persistent: Callable[[Any], object] | None = None,
) -> Any:
    """What ``stream`` holds, with ``known`` beside plain values; ``path`` is for the error."""
    try:
        return _Reader(stream, known=known, persistent=persistent).load()
    except _BROKEN as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); copy it again.") from error


class _Reader(pickle.Unpickler):
    def __init__(
        self, stream: IO[bytes], *, known: Known, persistent: Callable[[Any], object] | None
    ) -> None:
        super().__init__(stream)
        self._known, self._persistent = {**_PLAIN, **known}, persistent

    def find_class(self, module: str, name: str) -> Any:
        """Never imports."""
        if (module, name) in self._known:
            return self._known[module, name]
        named = getattr(torch, name, None) if module == "torch" else None
        if isinstance(named, torch.dtype):
            return named
        return type(name.rpartition(".")[2], (Inert,), {"__module__": module, "__qualname__": name})

    def persistent_load(self, pid: Any) -> object:
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to data outside of itself")
        return self._persistent(pid)
