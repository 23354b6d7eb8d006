# SPDX-License-Identifier: Apache-2.0
"""Join the finished pieces of PREFIX.pieces/ into PREFIX.bin, .idx and .json."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megacpt.data.manifest import BackendRecord, InputFile, Manifest, render
from megacpt.data.piece_files import PieceRecord, full_disk_told
from megacpt.data.progress import Progress, ProgressCallback
from megacpt.data.shard_writer import ShardFiles, ShardWriter
from megacpt.data.tree_hash import root
from megacpt.data.work_folder import Plan, WorkFolder
from megacpt.errors import DataError

CHUNK_BYTES = 1 << 22
NAMED = 8
"""Missing pieces that an error names."""
QUARANTINE = "quarantine.jsonl"


def merge(output_prefix: Path | str, *, progress: ProgressCallback | None = None) -> Manifest:
    """Publish the shard and remove PREFIX.pieces/; DataError names pieces that are missing.

    ``progress`` counts the bytes of the inputs whose pieces are joined.
    """
    folder = WorkFolder(output_prefix)
    pieces = _Pieces.open(folder)
    with ShardWriter(output_prefix, dtype=pieces.dtype) as writer:
        pieces.copy(writer, progress=progress)
        aside = writer.aside(QUARANTINE)
        try:
            has_bad = pieces.write_quarantine(aside)
            files = writer.publish(
                describe=lambda files: render(pieces.manifest(files)),
                beside=(QUARANTINE,) if has_bad else (),
            )
        finally:
            aside.unlink(missing_ok=True)
    if not has_bad:
        Path(f"{output_prefix}.{QUARANTINE}").unlink(missing_ok=True)
    folder.remove()
    return pieces.manifest(files)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pieces:
    """All pieces of a plan, finished."""

    folder: WorkFolder
    plan: Plan
    records: Sequence[PieceRecord]

    @classmethod
    def open(cls, folder: WorkFolder) -> _Pieces:
        plan = folder.plan()
        found = [folder.record(number) for number in range(len(plan.pieces))]
        missing = [number for number, record in enumerate(found) if record is None]
        if missing:
            named = ", ".join(map(str, missing[:NAMED])) + (" ..." if missing[NAMED:] else "")
            raise DataError(
                f"{folder.path} lacks {len(missing)} of {len(found)} pieces (numbers {named}); "
                "start the tasks that make them again, or the same command without --task."
            )
        return cls(folder=folder, plan=plan, records=[record for record in found if record])

    @property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        return np.dtype(self.plan.settings.dtype)

    def copy(self, writer: ShardWriter, *, progress: ProgressCallback | None) -> None:
        done = Counter(bytes=0, documents=0, tokens=0)
        for number, record in enumerate(self.records):
            for content in self._checked(number, "bin", expected=record.bin_sha256):
                writer.add_tokens(np.frombuffer(content, self.dtype))
            for content in self._checked(number, "lens", expected=record.lens_sha256):
                writer.add_lengths(np.frombuffer(content, "<i4"))
            done.update(bytes=record.bytes_read, documents=record.documents, tokens=record.tokens)
            if progress:
                now = Progress(
                    bytes_done=done["bytes"],
                    bytes_total=self.plan.num_bytes,
                    documents=done["documents"],
                    tokens=done["tokens"],
                )
                progress(now)
        if writer.documents == 0:
            raise self._nothing_found()

    def _checked(self, number: int, kind: str, *, expected: str) -> Iterator[bytes]:
        """The file in chunks; a file that is not what its record says is removed with it."""
        digest = hashlib.sha256()
        path = self.folder.file(number, kind)
        with path.open("rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != expected:
            self.folder.file(number, "json").unlink()
            raise DataError(
                f"{path} is damaged (a crash of the machine, or a full disk); the piece is put "
                "back: start the same command, or the task that makes it, again."
            )

    def write_quarantine(self, path: Path) -> bool:
        """The lines set aside, numbered as in the files; whether there are any."""
        if not any(record.errors for record in self.records) or self._on_error != "quarantine":
            return False
        with full_disk_told(self.folder.path), path.open("w", encoding="utf-8") as stream:
            for line in self._quarantined():
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return True

    def _quarantined(self) -> Iterator[dict[str, Any]]:
        lines_before: Counter[int] = Counter()
        for number, record in enumerate(self.records):
            parts = self.plan.pieces[number]
            if record.errors:
                with self.folder.file(number, "bad").open(encoding="utf-8") as stream:
                    for text in stream:
                        found = json.loads(text)
                        file = parts[found.pop("part")].file
                        found["line"] += lines_before[file]
                        yield {"file": self.plan.files[file].path} | found
            for part, lines in zip(parts, record.num_lines, strict=True):
                lines_before[part.file] += lines

    @property
    def _on_error(self) -> str:
        """Pieces without bad lines may have been made under another policy."""
        return next((record.on_error for record in self.records if record.errors), "stop")

    def manifest(self, files: ShardFiles) -> Manifest:
        settings = self.plan.settings
        return Manifest(
            name=self.folder.prefix.name,
            tokenizer_fingerprint=settings.tokenizer_fingerprint,
            vocab_size=settings.vocab_size,
            eos_id=settings.eos_id,
            append_eos=settings.append_eos,
            special=settings.special,
            key=settings.key,
            dtype=settings.dtype,
            inputs=tuple(self._inputs()),
            empty_documents=sum(record.empty_documents for record in self.records),
            long_documents=sum(record.long_documents for record in self.records),
            on_error=self._on_error,
            errors=dict(sum((Counter(record.errors) for record in self.records), Counter())),
            backends=tuple(self._backends()),
            **asdict(files),
        )

    def _inputs(self) -> Iterator[InputFile]:
        leaves: dict[int, list[str]] = {number: [] for number in range(len(self.plan.files))}
        for piece, record in zip(self.plan.pieces, self.records, strict=True):
            for part, found in zip(piece, record.leaves, strict=True):
                leaves[part.file] += found
        for number, file in enumerate(self.plan.files):
            yield InputFile(path=file.path, bytes=file.bytes, sha256=root(leaves[number]))

    def _backends(self) -> Iterator[BackendRecord]:
        for name in sorted({record.backend for record in self.records}):
            records = [record for record in self.records if record.backend == name]
            yield BackendRecord(
                name=name,
                documents=sum(record.documents for record in records),
                checked_documents=sum(record.checked_documents for record in records),
                checked_bytes=sum(record.checked_bytes for record in records),
            )

    def _nothing_found(self) -> DataError:
        names = ", ".join(file.path for file in self.plan.files)
        empty = sum(record.empty_documents for record in self.records)
        key = self.plan.settings.key
        counted = f"all {empty} texts under {key!r} are empty" if empty else "no lines"
        return DataError(f"the corpus is empty ({names}: {counted}); give files with text.")
