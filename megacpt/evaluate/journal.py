# SPDX-License-Identifier: Apache-2.0
"""What is known so far, a line at once: what was paid or waited for survives a kill."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from megacpt.errors import DataError, EnvironmentError_


def key_of(*asked: object) -> str:
    """Of what was asked, and of whom."""
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


class AnswerJournal:
    """Values by key; written from any thread, by one process."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._found: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # A kill can leave the last line unfinished.
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self._found[row["key"]] = row["value"]
            except (ValueError, LookupError, TypeError) as error:
                raise DataError(
                    f"{path}:{number} is no line of a journal; remove the file to ask again."
                ) from error
        self._stream = path.open("r+b" if path.exists() else "x+b")
        self._stream.truncate(len(whole))
        self._stream.seek(len(whole))

    def get(self, key: str) -> Any:
        """None: not known."""
        with self._lock:
            return self._found.get(key)

    def put(self, key: str, *, value: object) -> None:
        self.put_all({key: value})

    def put_all(self, values: Mapping[str, object]) -> None:
        """On the disk together, which takes no longer than one."""
        lines = [
            json.dumps({"key": key, "value": value}).encode() + b"\n"
            for key, value in values.items()
        ]
        with self._lock:
            self._found |= values
            try:
                self._stream.writelines(lines)
                self._stream.flush()
                os.fsync(self._stream.fileno())
            except OSError as error:
                raise EnvironmentError_(
                    f"{self._path} cannot be written: {error.strerror}; free some space."
                ) from error

    def close(self) -> None:
        with suppress(OSError):  # What the disk has refused, put has told.
            self._stream.close()
