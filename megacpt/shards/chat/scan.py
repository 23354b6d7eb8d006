# SPDX-License-Identifier: Apache-2.0
"""Walk over the lines of all files: their conversations as token ids, and a count of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from megacpt.corpus.checksum import root
from megacpt.corpus.documents import BadLine, ErrorKind, OnError, Passage, set_aside
from megacpt.corpus.formats import SourceFile
from megacpt.corpus.not_learned import NOT_LEARNED, has_spans, unread
from megacpt.corpus.pieces import cut
from megacpt.corpus.reader import ExtentReader
from megacpt.errors import DataError
from megacpt.files import json_line
from megacpt.shards.chat.encode import ChatEncoder, EncodedChat, OnLong, TooLongError
from megacpt.shards.chat.read import ChatLine, read_lines
from megacpt.shards.manifest import InputFile

WHOLE = 1 << 62
"""Bytes of a piece: all files in one."""
AT_ONCE = 512
"""Conversations whose tokens are in memory at once."""


@dataclass(slots=True, kw_only=True)
class Scan:
    """What was found so far; whole once ``chats`` is at its end."""

    files: Sequence[SourceFile]
    encoder: ChatEncoder
    on_error: OnError
    max_document_bytes: int
    inputs: list[InputFile] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    quarantined: list[bytes] = field(default_factory=list)
    """Lines of PREFIX.quarantine.jsonl."""
    truncated: int = 0
    bytes_done: int = 0

    @property
    def num_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def chats(self) -> Iterator[EncodedChat]:
        """In the order of the lines. DataError for the first that is none, under ``stop``."""
        for extent in (extent for piece in cut(self.files, size=WHOLE) for extent in piece):
            file, limit = self.files[extent.file], self.max_document_bytes
            reader = ExtentReader(file, extent=extent, number=0, key=None, max_bytes=limit)
            for passage in reader:
                yield from self._of_passage(passage, file=file)
            self.inputs.append(
                InputFile(path=file.path, bytes=file.bytes, sha256=root(reader.leaves))
            )

    def _of_passage(self, passage: Passage, *, file: SourceFile) -> Iterator[EncodedChat]:
        if has_spans(passage):
            raise unread(f"{file.path} has lines with {NOT_LEARNED}")
        lines = read_lines(passage, max_bytes=self.max_document_bytes)
        while some := list(islice(lines, AT_ONCE)):
            yield from self._of_lines(some, file=file)
        self.bytes_done += passage.bytes_read

    def _of_lines(
        self, lines: Sequence[ChatLine | BadLine], *, file: SourceFile
    ) -> Iterator[EncodedChat]:
        read = [line for line in lines if isinstance(line, ChatLine)]
        outcomes = iter(self.encoder.encode([line.conversation for line in read]))
        for line in lines:
            if isinstance(line, BadLine):
                self._leave_out(line, file=file)
                continue
            outcome = next(outcomes)
            if isinstance(outcome, EncodedChat):
                self.truncated += outcome.truncated
                yield outcome
            else:
                long = isinstance(outcome, TooLongError)
                kind = ErrorKind.too_many_tokens if long else ErrorKind.no_conversation
                self._leave_out(line.bad(outcome, kind=kind), file=file)

    def _leave_out(self, bad: BadLine, *, file: SourceFile) -> None:
        long = bad.kind is ErrorKind.too_many_tokens
        stops = self.encoder.on_long is OnLong.stop if long else self.on_error is OnError.stop
        if stops:
            remedy = (
                "Raise the limit, or say what to do with such: --on-long skip or truncate."
                if long
                else "Leave such lines out with --on-error skip, or quarantine to keep them aside."
            )
            raise DataError(f"{file.path}:{bad.line}: {bad.problem}. {remedy}")
        self.errors[bad.kind.value] += 1
        if self.on_error is OnError.quarantine:
            self.quarantined.append(json_line({"file": file.path} | set_aside(bad)))
