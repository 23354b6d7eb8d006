# SPDX-License-Identifier: Apache-2.0
"""Which files a corpus is made of, and what kind each is.

Folders and patterns stand for the files in them, in the order of their names (corpus.folders).
``-`` is standard input; what comes through a pipe is kept in a file first, so that an interrupted
run can go on.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from megacpt.corpus.containers import KINDS
from megacpt.corpus.folders import LeftOut, files_in
from megacpt.corpus.formats import ENDINGS, FileFormat, SourceFile, format_of_named, known_format
from megacpt.errors import DataError, EnvironmentError_

STANDARD_INPUT = "-"
BYTES_AT_ONCE = 1 << 20


def find_files(
    names: Sequence[Path | str],
    *,
    file_format: FileFormat | None,
    spool: Path,
    notice: Callable[[str], None] = lambda _: None,
) -> list[SourceFile]:
    """All files, in order. ``file_format`` overrules the endings; ``spool`` keeps stdin; ``notice``
    is told what of folders and patterns is left out."""
    search = _Search(file_format=file_format, spool=spool, notice=notice)
    found = [file for name in names for file in search.files_of(name)]
    if not found:
        raise DataError("the corpus is empty (no files); give files with text.")
    return found


class _Search:
    def __init__(
        self, *, file_format: FileFormat | None, spool: Path, notice: Callable[[str], None]
    ) -> None:
        self._format, self._spool, self._notice = file_format, spool, notice

    def files_of(self, name: Path | str) -> Iterator[SourceFile]:
        path = Path(name)
        if str(name) == STANDARD_INPUT:
            path = Path("/dev/stdin")
        is_pipe = path.exists() and not (path.is_dir() or path.is_file())
        if is_pipe or str(name) == STANDARD_INPUT:
            kept = _kept(path, folder=self._spool, file_format=self._format or FileFormat.jsonl)
            yield replace(self._described(kept), modified_ns=0)
        elif path.is_dir():
            yield from self._files_in(path)
        elif path.exists():
            yield self._described(path)
        elif glob.has_magic(str(name)):
            yield from self._matches(str(name))
        else:
            raise DataError(
                f"input {name} does not exist; give files (.jsonl, .parquet or .txt), folders or "
                "patterns."
            )

    def _files_in(self, folder: Path) -> Iterator[SourceFile]:
        left_out = LeftOut()
        taken = []
        for path in files_in(folder, left_out=left_out):
            file_format = self._format or known_format(path, left_out=left_out)
            if file_format:
                taken.append(_source(path, file_format=file_format))
        if not taken:
            told = left_out.told(before="; left out: ")
            known = f"{', '.join(ENDINGS)} (or such a one with {', '.join(KINDS)})"
            raise DataError(
                f"input folder {folder} holds no file that ends with {known}{told}; name the "
                "files, or their kind with --format."
            )
        self._tell(str(folder), taken=len(taken), left_out=left_out)
        yield from taken

    def _matches(self, pattern: str) -> Iterator[SourceFile]:
        left_out = LeftOut()
        found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
        files = [path for path in found if path.is_file()]
        if not files:
            raise DataError(f"input {pattern} matches no file; check the pattern.")
        if "**" not in pattern:  # Which matches folders for the files below them.
            for path in found:
                if not path.is_file():
                    left_out.add(
                        "folders" if path.is_dir() else "links that lead nowhere", path=path
                    )
        self._tell(pattern, taken=len(files), left_out=left_out)
        yield from map(self._described, files)

    def _described(self, path: Path) -> SourceFile:
        return _source(path, file_format=self._format or format_of_named(path))

    def _tell(self, name: str, *, taken: int, left_out: LeftOut) -> None:
        if left_out:
            plural = "s" * (taken != 1)
            self._notice(f"{name}: {taken:,} file{plural} taken; left out: {left_out.told()}.")


def _source(path: Path, *, file_format: FileFormat) -> SourceFile:
    about = path.stat()
    return SourceFile(
        path=str(path), format=file_format, bytes=about.st_size, modified_ns=about.st_mtime_ns
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
