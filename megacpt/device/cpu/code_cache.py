# SPDX-License-Identifier: Apache-2.0
"""Code objects on disk, found by the source they came from and the code that made them.

The way of ``__pycache__``, but outside of site-packages: parsing megatron-core takes seconds, and
many ranks start at once. An entry is its key, a digest and the marshalled code; it is written
aside and renamed, so ranks may race. Whatever is wrong with an entry, or with the folder, the
answer is "not cached", never an error.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import marshal
import os
import sys
import tempfile
from pathlib import Path
from types import CodeType

logger = logging.getLogger(__name__)
_DIGEST_BYTES = 16


class CodeCache:
    """One folder of code objects made by ``maker``, a digest of the code that compiles them."""

    def __init__(self, folder: Path | None, *, maker: bytes) -> None:
        self._folder = folder
        self._maker = maker

    def load(self, source: str) -> CodeType | None:
        """The code object of the file ``source`` as it is now, or None."""
        if self._folder is None:
            return None
        try:
            entry = self._entry(source).read_bytes()
            return _unpack(entry, key=self._key(source))
        except (OSError, EOFError, ValueError, TypeError):
            return None

    def store(self, source: str, *, code: CodeType) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_aside(self._entry(source), content=_pack(code, key=self._key(source)))
        except OSError as error:
            logger.debug("%s is not cached: %s", source, error)

    def _entry(self, source: str) -> Path:
        """One file for a source and a Python, overwritten when either's content changes."""
        assert self._folder is not None
        tag = f"{sys.implementation.cache_tag}-{sys.flags.optimize}"
        name = hashlib.sha256(f"{tag}:{source}".encode()).hexdigest()[:32]
        return self._folder / f"{name}.code"

    def _key(self, source: str) -> bytes:
        status = os.stat(source)
        state = f"{source}:{status.st_mtime_ns}:{status.st_size}:{sys.flags.optimize}"
        parts = (importlib.util.MAGIC_NUMBER, self._maker, state.encode())
        return hashlib.sha256(b":".join(parts)).digest()


def default_folder() -> Path | None:
    """``$XDG_CACHE_HOME/megacpt``, by default ``~/.cache/megacpt``; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "megacpt" / "megatron-core-cpu" if os.path.isabs(base) else None


def _pack(code: CodeType, *, key: bytes) -> bytes:
    payload = marshal.dumps(code)
    return key + _digest(payload) + payload


def _unpack(entry: bytes, *, key: bytes) -> CodeType | None:
    """marshal trusts its input, so the digest is checked before it sees any."""
    start = len(key) + _DIGEST_BYTES
    payload = entry[start:]
    if entry[: len(key)] != key or entry[len(key) : start] != _digest(payload):
        return None
    code = marshal.loads(payload)
    return code if isinstance(code, CodeType) else None


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()


def _write_aside(path: Path, *, content: bytes) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(aside, path)
    except OSError:
        Path(aside).unlink(missing_ok=True)
        raise
