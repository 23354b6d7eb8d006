# SPDX-License-Identifier: Apache-2.0
"""Import hook: modules of ``megatron.core``, and of the optimizers that it imports where they are
installed, load rewritten for a CPU, everything else as ever.

``install()`` puts a finder in front of ``sys.meta_path``. It touches neither torch nor a file of
megatron-core; a process that does not call it (every GPU rank) has megatron-core as published.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

from megacpt.device.cpu import rewrite
from megacpt.device.cpu.code_cache import CodeCache, default_folder
from megacpt.errors import EnvironmentError_

_PACKAGE = "megatron.core"
_REWRITTEN = (_PACKAGE, "emerging_optimizers")


def install() -> None:
    """Make ``megatron.core`` importable on a CPU, before its first import; idempotent."""
    if any(isinstance(finder, _CpuFinder) for finder in sys.meta_path):
        return
    if _PACKAGE in sys.modules:
        raise EnvironmentError_(
            f"{_PACKAGE} was imported before megacpt could prepare it for CPUs; start the process "
            "through megacpt, or call megacpt.device.cpu.import_hook.install() before that import."
        )
    maker = hashlib.sha256(Path(rewrite.__file__).read_bytes()).digest()
    sys.meta_path.insert(0, _CpuFinder(CodeCache(default_folder(), maker=maker)))


class _CpuFinder(importlib.abc.MetaPathFinder):
    """Finds what the other finders find, and gives the sources of ``_REWRITTEN`` another loader."""

    def __init__(self, cache: CodeCache) -> None:
        self._cache = cache

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not f"{fullname}.".startswith(tuple(f"{package}." for package in _REWRITTEN)):
            return None
        spec = self._find_elsewhere(fullname, path=path, target=target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _CpuLoader(fullname, path=spec.loader.path, cache=self._cache)
        return spec

    def _find_elsewhere(
        self, fullname: str, *, path: Sequence[str] | None, target: ModuleType | None
    ) -> importlib.machinery.ModuleSpec | None:
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None


class _CpuLoader(importlib.machinery.SourceFileLoader):
    """Loads one source file through the rewriting and its cache."""

    def __init__(self, fullname: str, *, path: str, cache: CodeCache) -> None:
        super().__init__(fullname, path)
        self._cache = cache

    def get_code(self, fullname: str) -> CodeType:
        code = self._cache.load(self.path)
        if code is None:
            source = self.get_data(self.path)
            code = rewrite.compile_for_cpu(source, path=self.path, module=fullname)
            self._cache.store(self.path, code=code)
        return code
