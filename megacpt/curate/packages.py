# SPDX-License-Identifier: Apache-2.0
"""Packages of the extra ``curate``, imported where they are used."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from megacpt.errors import EnvironmentError_


def need(module: str, *, who: str = "filter needs") -> Any:
    """A module of one of them."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise EnvironmentError_(
            f"{who} the package {package}: pip install 'megacpt[curate]'"
        ) from error


def versions(packages: Iterable[str]) -> dict[str, str]:
    return {package: version(package) for package in sorted(packages)}
