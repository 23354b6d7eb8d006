# SPDX-License-Identifier: Apache-2.0
"""A file or a folder is written aside, flushed to the disk and renamed: readers see the old or the
new one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from megacpt.errors import EnvironmentError_


def write_text(path: Path, *, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    write_parts(path, parts=[encoded(text)])


def encoded(text: str) -> bytes:
    """UTF-8, whatever it comes from: keys and names of files may hold halves of surrogate pairs,
    which become what they are in JSON as well, ``\\udce9``."""
    return text.encode("utf-8", "backslashreplace")


def json_line(value: object) -> bytes:
    """A line of JSON, which any reader of UTF-8 takes."""
    return encoded(json.dumps(value, ensure_ascii=False) + "\n")


def write_parts(path: Path, *, parts: Iterable[bytes | memoryview]) -> None:
    """Replace ``path`` by ``parts``, one after another, in one step that survives a power cut."""
    aside = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise EnvironmentError_(
            f"{path} cannot be written: {error.strerror}; "
            "choose a folder with write permission and free space."
        ) from error


def aside_of(path: Path) -> Path:
    """A name beside it that no other process takes, on whatever machine."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")


def write_first(path: Path, *, text: str) -> None:
    """Write it unless another process was first, on any machine: then it is left as it is."""
    aside = aside_of(path)
    write_text(aside, text=text)
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()


def sync(path: Path) -> None:
    """Make a file, or the renames inside a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """The same of everything inside."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


@contextlib.contextmanager
def empty_aside(
    output: Path, *, refused_by: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[Path]:
    """An empty folder beside ``output``, to be renamed; removed where it was not. What the disk
    refuses is an ``EnvironmentError_``."""
    aside = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
    except refused_by as error:
        raise EnvironmentError_(
            f"{output} cannot be written: {error}; "
            "choose a folder with write permission and free space (--output FOLDER)."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # of what has failed, or was interrupted


def require_new(folder: Path) -> None:
    """A folder to be written must not be there, or be empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise EnvironmentError_(
            f"{folder} exists, and nothing is written over; choose another folder, or delete it "
            "first."
        )


def publish(aside: Path, *, folder: Path) -> None:
    """Give what was written aside its name, at which there is nothing or an empty folder."""
    sync_all(aside)
    if folder.exists():
        folder.rmdir()
    aside.rename(folder)
    sync(folder.parent)
