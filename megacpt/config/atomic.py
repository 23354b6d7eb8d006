# SPDX-License-Identifier: Apache-2.0
"""A file is written aside, flushed to the disk and renamed: readers see the old or the new one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from megacpt.errors import EnvironmentError_


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    aside = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise EnvironmentError_(
            f"{path} cannot be written: {error.strerror}; "
            "choose a folder with write permission and free space."
        ) from error
