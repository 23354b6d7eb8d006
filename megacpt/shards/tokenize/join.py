# SPDX-License-Identifier: Apache-2.0
"""Join the finished pieces of PREFIX.pieces/ into PREFIX.bin, .idx and .json."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megacpt.corpus.checksum import root
from megacpt.corpus.documents import QUARANTINE
from megacpt.errors import DataError
from megacpt.files import json_line
from megacpt.shards.manifest import (
    BYTES_AT_ONCE,
    BackendRecord,
    InputFile,
    Manifest,
    chained,
    manifest_json,
    total_backends,
)
from megacpt.shards.tokenize.piece_log import PieceRecord
from megacpt.shards.tokenize.progress import ProgressCallback, TokenizeProgress
from megacpt.shards.tokenize.work_folder import PiecePlan, WorkFolder
from megacpt.shards.writer import MASK, ShardFiles, ShardWriter

NAMED = 8
"""Missing pieces that an error names."""


def merge(
    output_prefix: Path | str,
    *,
    own_log: str | None = None,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Publish the shard and remove PREFIX.pieces/; DataError names pieces that are missing.

    ``own_log`` is one that this process has written itself, and need not compare with its
    checksums. ``progress`` counts the bytes of the inputs whose pieces are joined.
    """
    folder = WorkFolder(output_prefix)
    pieces = _Pieces.open(folder, own_log=own_log)
    for file in pieces.inputs():
        pieces.plan.curated.require(file.path, sha256=file.sha256)
    with ShardWriter(output_prefix, dtype=pieces.dtype) as writer:
        pieces.put(writer, progress=progress)
        has_bad = pieces.write_quarantine(writer)
        files = writer.publish(
            describe=lambda files: manifest_json(pieces.manifest(files)),
            beside=(QUARANTINE,) if has_bad else (),
        )
    if not has_bad:
        Path(f"{output_prefix}.{QUARANTINE}").unlink(missing_ok=True)
    folder.remove()
    return pieces.manifest(files)


class _Checked:
    """Digest of a log's file up to the position that was read."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.position = 0

    def update(self, content: bytes) -> None:
        self.digest.update(content)
        self.position += len(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pieces:
    """All pieces of a plan, finished."""

    folder: WorkFolder
    plan: PiecePlan
    records: Sequence[PieceRecord]
    own_log: str | None

    @classmethod
    def open(cls, folder: WorkFolder, *, own_log: str | None) -> _Pieces:
        plan = folder.plan()
        found = [folder.record(number) for number in range(len(plan.pieces))]
        missing = [number for number, record in enumerate(found) if record is None]
        if missing:
            named = ", ".join(map(str, missing[:NAMED])) + (" ..." if missing[NAMED:] else "")
            raise DataError(
                f"{folder.path} lacks {len(missing)} of {len(found)} pieces (numbers {named}); "
                "start the tasks that make them again, or the same command without --task."
            )
        records = [record for record in found if record]
        return cls(folder=folder, plan=plan, records=records, own_log=own_log)

    @property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        return np.dtype(self.plan.settings.dtype)

    def put(self, writer: ShardWriter, *, progress: ProgressCallback | None) -> None:
        """All tokens and lengths, in order."""
        if not self._adopt(writer):
            self._copy(
                "bin",
                take=lambda b: writer.add_tokens(np.frombuffer(b, self.dtype)),
                progress=progress,
            )
        self._copy("lens", take=lambda b: writer.add_lengths(np.frombuffer(b, "<i4")))
        if any(record.is_masked for record in self.records):
            self._put_mask(writer)
        if writer.documents == 0:
            raise self._nothing_found()

    def _put_mask(self, writer: ShardWriter) -> None:
        """A byte for each token, 1 in pieces that have no mask."""
        logs: defaultdict[str, _Checked] = defaultdict(_Checked)
        for number, record in enumerate(self.records):
            if not record.is_masked:
                writer.add_mask(np.ones(record.tokens, dtype=np.uint8))
                continue
            self._take(
                number,
                kind=MASK,
                checked=logs[record.log],
                take=lambda b: writer.add_mask(np.frombuffer(b, np.uint8)),
            )

    def _adopt(self, writer: ShardWriter) -> bool:
        """Take this process's file as the shard's, if it made all pieces."""
        last = self.records[-1]
        logs = {record.log for record in self.records}
        if logs != {self.own_log} or not last.stops["bin"]:
            return False
        path = self.folder.log_file(last, kind="bin")
        return writer.adopt_tokens(path, sha256=last.digests["bin"])

    def _copy(
        self,
        kind: str,
        *,
        take: Callable[[bytes], None],
        progress: ProgressCallback | None = None,
    ) -> None:
        logs: defaultdict[str, _Checked] = defaultdict(_Checked)
        done = Counter(bytes=0, documents=0, tokens=0)
        for number, record in enumerate(self.records):
            self._take(number, kind=kind, checked=logs[record.log], take=take)
            done.update(bytes=record.bytes_read, documents=record.documents, tokens=record.tokens)
            if progress:
                progress(
                    TokenizeProgress(
                        bytes_done=done["bytes"],
                        bytes_total=self.plan.num_bytes,
                        documents=done["documents"],
                        tokens=done["tokens"],
                    )
                )

    def _take(
        self, number: int, *, kind: str, checked: _Checked, take: Callable[[bytes], None]
    ) -> None:
        """What the piece has in a file of its log, which must be as its record says."""
        for content in self._contents(number, kind=kind, checked=checked):
            take(content)
        if checked.digest.hexdigest() != self.records[number].digests[kind]:
            raise self._damaged(number, kind=kind)

    def _contents(self, number: int, *, kind: str, checked: _Checked) -> Iterator[bytes]:
        """Content of the piece in a file of its log, some at a time.

        All of that file from the end of the piece before goes into the digest: a piece between the
        two may have been made once more elsewhere.
        """
        record = self.records[number]
        start, stop = record.starts[kind], record.stops[kind]
        if checked.position == stop:
            return
        with self.folder.log_file(record, kind=kind).open("rb", buffering=0) as stream:
            stream.seek(checked.position)
            while (at := checked.position) < stop:
                limit = start if at < start else stop
                content = stream.read(min(BYTES_AT_ONCE, limit - at))
                if not content:
                    raise self._damaged(number, kind=kind)
                checked.update(content)
                if at >= start:
                    yield content

    def _damaged(self, number: int, *, kind: str) -> DataError:
        record = self.records[number]
        for n, other in enumerate(self.records[number:], start=number):
            if other.log == record.log:
                self.folder.forget(n)
        return DataError(
            f"{self.folder.log_file(record, kind=kind)} is damaged (most often by a crash of the "
            "machine); its pieces are made again by the same command, or by the tasks that made "
            "them: start those again."
        )

    def write_quarantine(self, writer: ShardWriter) -> bool:
        """The lines set aside, numbered as in the files; whether there are any."""
        if not any(record.errors for record in self.records) or self._on_error != "quarantine":
            return False
        writer.write_beside(QUARANTINE, content=map(json_line, self._quarantined()))
        return True

    def _quarantined(self) -> Iterator[dict[str, Any]]:
        lines_before: Counter[int] = Counter()
        for number, record in enumerate(self.records):
            extents = self.plan.pieces[number]
            for text in self._bad_lines(record):
                found = json.loads(text)
                file = extents[found.pop("part")].file
                found["line"] += lines_before[file]
                yield {"file": self.plan.files[file].path} | found
            for extent, lines in zip(extents, record.num_lines, strict=True):
                lines_before[extent.file] += lines

    def _bad_lines(self, record: PieceRecord) -> list[bytes]:
        start, stop = record.starts["bad"], record.stops["bad"]
        if start == stop:
            return []
        with self.folder.log_file(record, kind="bad").open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start).splitlines()

    @property
    def _on_error(self) -> str:
        """Pieces without bad lines may have been made under another policy."""
        return next((record.on_error for record in self.records if record.errors), "stop")

    def manifest(self, files: ShardFiles) -> Manifest:
        settings = self.plan.settings
        found = Manifest(
            name=self.folder.prefix.name,
            tokenizer_fingerprint=settings.tokenizer_fingerprint,
            tokenizer_identity=settings.tokenizer_identity,
            vocab_size=settings.vocab_size,
            eos_id=settings.eos_id,
            append_eos=settings.append_eos,
            special=settings.special,
            key=settings.key,
            dtype=settings.dtype,
            inputs=tuple(self.inputs()),
            curated=self.plan.curated.origins,
            empty_documents=sum(record.empty_documents for record in self.records),
            long_documents=sum(record.long_documents for record in self.records),
            on_error=self._on_error,
            errors=dict(sum((Counter(record.errors) for record in self.records), Counter())),
            backends=total_backends(
                BackendRecord(
                    name=record.backend,
                    documents=record.documents,
                    checked_documents=record.checked_documents,
                    checked_bytes=record.checked_bytes,
                )
                for record in self.records
            ),
            **asdict(files),
        )
        return chained(found)

    def inputs(self) -> Iterator[InputFile]:
        leaves: dict[int, list[str]] = {number: [] for number in range(len(self.plan.files))}
        for piece, record in zip(self.plan.pieces, self.records, strict=True):
            for extent, found in zip(piece, record.leaves, strict=True):
                leaves[extent.file] += found
        for number, file in enumerate(self.plan.files):
            yield InputFile(path=file.path, bytes=file.bytes, sha256=root(leaves[number]))

    def _nothing_found(self) -> DataError:
        names = ", ".join(file.path for file in self.plan.files)
        empty = sum(record.empty_documents for record in self.records)
        key = self.plan.settings.key
        bad = sum((Counter(record.errors) for record in self.records), Counter())
        counts = [f"{empty} texts under {key!r} are empty"] * bool(empty)
        counts += [f"{count} bad lines are {kind}" for kind, count in sorted(bad.items())]
        counted = f"all {counts[0]}" if len(counts) == 1 else ", ".join(counts) or "no lines"
        return DataError(f"the corpus is empty ({names}: {counted}); give files with text.")
