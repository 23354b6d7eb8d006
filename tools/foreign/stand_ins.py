# SPDX-License-Identifier: Apache-2.0
"""Modules that Megatron-Bridge imports everywhere and needs on GPUs or for other models only."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

NAMES = (
    *("transformer_engine", "transformer_engine_torch", "modelopt", "nvidia_resiliency_ext"),
    *("megatron.energon", "PIL", "google", "wandb", "mlflow", "comet_ml", "tensorboard"),
)


class _Anything(type):
    """A class with whatever attribute is asked for, itself such a class."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _class(name)


def _class(name: str) -> type:
    def take(*_: object, **__: object) -> None:
        pass

    return _Anything(name, (), {"__init__": take})


class _Module(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []
        self.__version__ = "2.9.0"

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, _class(name))
        return getattr(self, name)  # type: ignore[no-any-return]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last: what is installed is itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(f"{fullname}.".startswith(f"{name}.") for name in NAMES):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    sys.meta_path.append(_Finder())
