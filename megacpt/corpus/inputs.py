# SPDX-License-Identifier: Apache-2.0
"""Which files a corpus is made of, and what kind each is.

Folders and patterns stand for the files in them, in the order of their names; of a folder only
files whose ending tells their kind are taken. ``-`` is standard input; what comes through a pipe is
kept in a file first, so that an interrupted run can go on.
"""

from __future__ import annotations

import enum
import glob
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megacpt.corpus.documents import QUARANTINE
from megacpt.errors import DataError, EnvironmentError_

STANDARD_INPUT = "-"
COMPRESSED = (".gz", ".zst")
BYTES_AT_ONCE = 1 << 20


class FileFormat(enum.Enum):
    jsonl = "jsonl"
    """A JSON object a line, one document each."""
    parquet = "parquet"
    """A row a document."""
    text = "text"
    """A file a document."""


ENDINGS = {
    ".jsonl": FileFormat.jsonl,
    ".ndjson": FileFormat.jsonl,
    ".parquet": FileFormat.parquet,
    ".txt": FileFormat.text,
    ".text": FileFormat.text,
}
IN_NAMED_FILES = {".md": FileFormat.text, ".rst": FileFormat.text}
"""Too often something else than documents (README.md) to be taken from a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file as it was when the work was planned."""

    path: str
    format: FileFormat
    bytes: int
    modified_ns: int

    @property
    def compression(self) -> str | None:
        """gz, zst or None."""
        suffix = Path(self.path).suffix
        return suffix[1:] if suffix in COMPRESSED else None


def find_files(
    names: Sequence[Path | str], *, file_format: FileFormat | None, spool: Path
) -> list[SourceFile]:
    """All files, in order. ``file_format`` overrules the endings; ``spool`` keeps stdin."""
    found = [
        file for name in names for file in _files_of(name, file_format=file_format, spool=spool)
    ]
    if not found:
        raise DataError("the corpus is empty (no files); give files with text.")
    return found


def _files_of(
    name: Path | str, *, file_format: FileFormat | None, spool: Path
) -> Iterator[SourceFile]:
    path = Path(name)
    if str(name) == STANDARD_INPUT:
        path = Path("/dev/stdin")
    is_pipe = path.exists() and not (path.is_dir() or path.is_file())
    if is_pipe or str(name) == STANDARD_INPUT:
        kept = _kept(path, folder=spool, file_format=file_format or FileFormat.jsonl)
        yield replace(_described(kept, file_format=file_format), modified_ns=0)
    elif path.is_dir():
        yield from _files_in(path, file_format=file_format)
    elif path.exists():
        yield _described(path, file_format=file_format)
    elif glob.has_magic(str(name)):
        yield from _matches(str(name), file_format=file_format)
    else:
        raise DataError(
            f"input {name} does not exist; give files (.jsonl, .parquet or .txt), folders or "
            "patterns."
        )


def format_of(path: Path) -> FileFormat | None:
    """The format that the ending tells, below that of a compression."""
    suffix = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return (ENDINGS | IN_NAMED_FILES).get(suffix)


def _files_in(folder: Path, *, file_format: FileFormat | None) -> Iterator[SourceFile]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if not _is_aside(path.relative_to(folder))]
    taken = [path for path in files if file_format or _tells_its_kind(path)]
    if not taken:
        known = ", ".join(ENDINGS)
        raise DataError(
            f"input folder {folder} holds no file that ends with {known} (or such a one with .gz "
            "or .zst); name the files, or their kind with --format."
        )
    for path in taken:
        yield _described(path, file_format=file_format)


def _tells_its_kind(path: Path) -> bool:
    return format_of(path) is not None and path.suffix not in IN_NAMED_FILES


def _is_aside(relative: Path) -> bool:
    """Hidden, or left by an earlier run of this tool."""
    hidden = any(part.startswith(".") or part.endswith(".pieces") for part in relative.parts)
    return hidden or relative.name.endswith(f".{QUARANTINE}")


def _matches(pattern: str, *, file_format: FileFormat | None) -> Iterator[SourceFile]:
    files = [Path(p) for p in sorted(glob.glob(pattern, recursive=True)) if Path(p).is_file()]
    if not files:
        raise DataError(f"input {pattern} matches no file; check the pattern.")
    for path in files:
        yield _described(path, file_format=file_format)


def _described(path: Path, *, file_format: FileFormat | None) -> SourceFile:
    about = path.stat()
    return SourceFile(
        path=str(path),
        format=file_format or format_of(path) or FileFormat.jsonl,
        bytes=about.st_size,
        modified_ns=about.st_mtime_ns,
    )


def _kept(pipe: Path, *, folder: Path, file_format: FileFormat) -> Path:
    """What comes through a pipe, in a file named by its checksum: same input, same file."""
    aside = folder / "pipe.partial"
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pipe.open("rb") as source, aside.open("wb") as target:
            while content := source.read(BYTES_AT_ONCE):
                digest.update(content)
                target.write(content)
        return aside.replace(folder / f"pipe-{digest.hexdigest()[:16]}.{file_format.value}")
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise EnvironmentError_(
            f"{pipe} cannot be kept in {folder}: {error.strerror}; free space, or give files."
        ) from error
