# SPDX-License-Identifier: Apache-2.0
"""Large files of the hub, several at once, each going on where an interrupted one has ended."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from megacpt.config.hub_model import HubModel
from megacpt.errors import EnvironmentError_

Progress = Callable[[int, int], None]
"""Bytes that are there, and of all."""
WORKERS = 8
POLL_S = 0.2
STOP_S = 2.0
"""How long an interrupted download waits for its threads, which may be waiting for the network."""
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeFile:
    name: str
    size: int
    sha256: str
    """Also its name among the blobs."""


class _Stopped(Exception):
    """Another file has failed, or the user has interrupted."""


@dataclass(slots=True, kw_only=True)
class _Transfer:
    """What the threads share."""

    model: HubModel
    blobs: Path
    headers: dict[str, str]
    todo: queue.SimpleQueue[LargeFile] = field(default_factory=queue.SimpleQueue)
    stopped: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)


class _Part(io.FileIO):
    """What has come of a file; appended to, under a lock that other processes respect."""

    def __init__(self, path: Path, *, stopped: threading.Event) -> None:
        super().__init__(path, "ab")
        self._stopped = stopped

    def lock(self) -> None:
        while not self._stopped.is_set():
            try:
                return fcntl.flock(self, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stopped.wait(POLL_S)
            except OSError as error:
                # Some file systems have none; what two have written into one fails the check.
                if error.errno not in NO_LOCKS:
                    raise
                return None
        raise _Stopped

    def write(self, data: Any) -> int:
        if self._stopped.is_set():
            raise _Stopped
        left = memoryview(data)
        while left:
            left = left[super().write(left) :]
        return len(data)


def fetch_large(
    files: Sequence[LargeFile], *, model: HubModel, blobs: Path, progress: Progress
) -> None:
    """Bring them into ``blobs``, checked; what has come stays there when this is interrupted."""
    blobs.mkdir(parents=True, exist_ok=True)
    # Compressed on the way, a file has no size and cannot be gone on with.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    transfer = _Transfer(model=model, blobs=blobs, headers=headers)
    for file in files:
        transfer.todo.put(file)
    threads = [
        threading.Thread(target=_work, args=[transfer], daemon=True)
        for _ in range(min(WORKERS, len(files)))
    ]
    total = sum(file.size for file in files)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            progress(sum(arrived(file, blobs=blobs) for file in files), total)
            transfer.stopped.wait(POLL_S)
    finally:
        transfer.stopped.set()
        for thread in threads:
            thread.join(STOP_S)
    if transfer.errors:
        raise transfer.errors[0]
    progress(total, total)


def arrived(file: LargeFile, *, blobs: Path) -> int:
    """Bytes of the file that need not be fetched again."""
    if (blobs / file.sha256).exists():
        return file.size
    part = _part_of(file, blobs=blobs)
    return part.stat().st_size if part.exists() else 0


def _part_of(file: LargeFile, *, blobs: Path) -> Path:
    return blobs / f"{file.sha256}.incomplete"


def _work(transfer: _Transfer) -> None:
    try:
        while not transfer.stopped.is_set():
            _fetch(transfer.todo.get_nowait(), transfer=transfer)
    except (queue.Empty, _Stopped):
        return
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
        transfer.errors.append(error)
        transfer.stopped.set()


def _fetch(file: LargeFile, *, transfer: _Transfer) -> None:
    blob, path = transfer.blobs / file.sha256, _part_of(file, blobs=transfer.blobs)
    if blob.exists():
        return
    with _Part(path, stopped=transfer.stopped) as part:
        part.lock()
        # Another process may have fetched it meanwhile.
        if blob.exists():
            return
        if part.tell() > file.size:
            part.truncate(0)
        if part.tell() < file.size:
            http_get(
                hf_hub_url(transfer.model.repo, file.name, revision=transfer.model.revision),
                part,
                resume_size=part.tell(),
                headers=transfer.headers,
                expected_size=file.size,
            )
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.sha256:
            part.truncate(0)
            raise EnvironmentError_(
                f"{file.name} of {transfer.model} has arrived damaged: its sha256 is {found[:12]}, "
                f"but the hub states {file.sha256[:12]}; start again to download it again."
            )
        path.rename(blob)
