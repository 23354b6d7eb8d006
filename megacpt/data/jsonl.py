# SPDX-License-Identifier: Apache-2.0
"""Read JSONL files as blocks of whole lines, so that workers can parse them apart."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megacpt.data.manifest import InputFile
from megacpt.errors import DataError

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Whole lines of one file."""

    path: str
    first_line: int
    """Number of the first line in the file, from 1."""
    content: bytes
    bytes_read: int
    """Bytes of all inputs on disk that were read so far (compressed ones, of a .gz)."""


class JsonlReader:
    """Iterate over the blocks of all files; ``files`` describes those read to the end."""

    def __init__(self, paths: Sequence[Path | str]) -> None:
        self.paths = [Path(path) for path in paths]
        for path in self.paths:
            _require_file(path)
        self.total_bytes = sum(path.stat().st_size for path in self.paths)
        self.files: list[InputFile] = []
        self._done_bytes = 0

    def __iter__(self) -> Iterator[Block]:
        for path in self.paths:
            try:
                with path.open("rb", buffering=0) as file:
                    yield from self._blocks(path, _Hashed(file))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(
                    f"{path} is not a complete gzip file ({error}); compress or copy it again."
                ) from error
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}; check it.") from error

    def _blocks(self, path: Path, raw: _Hashed) -> Iterator[Block]:
        buffered: io.BufferedReader | gzip.GzipFile = io.BufferedReader(raw, BLOCK_BYTES)
        if path.suffix == ".gz":
            buffered = gzip.GzipFile(fileobj=buffered)
        line = 1
        # A block ends with its last line: its size is bounded by that of the longest line.
        while content := buffered.read(BLOCK_BYTES):
            content += buffered.readline()
            yield Block(
                path=str(path),
                first_line=line,
                content=content,
                bytes_read=self._done_bytes + raw.count,
            )
            line += content.count(b"\n")
        self._done_bytes += raw.count
        self.files.append(InputFile(path=str(path), bytes=raw.count, sha256=raw.digest.hexdigest()))


class _Hashed(io.RawIOBase):
    """A raw file that counts and hashes what is read from it."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        self.digest.update(buffer[:count])
        self.count += count
        return count


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"input {path} is a folder; name the .jsonl or .jsonl.gz files in it.")
    if not path.exists():
        raise DataError(f"input {path} does not exist; give a JSONL file, plain or .gz.")


def parse_texts(block: Block, *, key: str) -> list[str]:
    """The text of every line that is not blank; DataError names file and line of a broken one."""
    texts = []
    for number, line in enumerate(block.content.split(b"\n"), start=block.first_line):
        if line.strip():
            texts.append(_text_of(line, key=key, where=f"{block.path}:{number}"))
    return texts


def _text_of(line: bytes, *, key: str, where: str) -> str:
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 ({error}); convert the file.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({error}); mend or remove the line.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: must hold a JSON object, got {type(value).__name__}.")
    text = value.get(key)
    if not isinstance(text, str):
        problem = "has no key" if key not in value else "holds no text under"
        known = ", ".join(sorted(value)) or "none"
        raise DataError(f"{where}: {problem} {key!r}; its keys are: {known}. Use --key NAME.")
    return _without_surrogates(text, where=where)


def _without_surrogates(text: str, *, where: str) -> str:
    """JSON can escape half a surrogate pair, which no UTF-8 text can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: text is not Unicode ({error}); mend or remove it.") from error
    return text
