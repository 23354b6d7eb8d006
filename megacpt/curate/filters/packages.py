# SPDX-License-Identifier: Apache-2.0
"""Packages that some of the filters stand on, and their versions."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from megacpt.errors import EnvironmentError_


def need(module: str) -> Any:
    """A module of a package that comes with the extra ``curate``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentError_(
            f"filter needs the package {error.name or module}: pip install 'megacpt[curate]'"
        ) from error


def versions(packages: Iterable[str]) -> dict[str, str]:
    return {package: version(package) for package in sorted(packages)}
