# SPDX-License-Identifier: Apache-2.0
"""Which weights answer: what answers are kept by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from megacpt.errors import ModelError
from megacpt.families.stored.fingerprint import fingerprint

ADAPTER = "adapter_model.safetensors"


def fingerprint_of(folder: Path, *, beside: Path | None) -> str:
    """Of a Hugging Face folder; of PEFT's folder ``beside`` the model that it is of."""
    if beside is None:
        return fingerprint(folder)
    path = folder / ADAPTER
    try:
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}); export the run again.") from error
    return f"{fingerprint(beside)}+{own}"
