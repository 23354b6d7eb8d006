# SPDX-License-Identifier: Apache-2.0
"""Documents to a token shard with a manifest, on all cores of one machine or of many.

The inputs are cut into pieces (corpus.pieces), each is tokenized to files of its own in
PREFIX.pieces/ (work_folder), and all are joined (join). The cut does not depend on who
does the work, so the bytes of the shard depend on the inputs and the settings alone, however often
the work is interrupted and wherever it goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megacpt.corpus.curation import curated
from megacpt.corpus.documents import QUARANTINE, OnError
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.inputs import find_files
from megacpt.corpus.pieces import cut, piece_bytes
from megacpt.corpus.workers.processes import num_processes, run_pieces
from megacpt.corpus.workers.share import checked_share
from megacpt.device.environment import num_cores
from megacpt.errors import ConfigError, DataError, MegacptError
from megacpt.shards.format import choose_dtype
from megacpt.shards.manifest import (
    Manifest,
    manifest_path,
    of_fingerprint,
    read_shard_manifest,
)
from megacpt.shards.tokenize.encode import BackendDiffersError
from megacpt.shards.tokenize.join import merge
from megacpt.shards.tokenize.progress import ProgressCallback, TokenizeProgress
from megacpt.shards.tokenize.runner import PieceTokenizer, TokenizeJob
from megacpt.shards.tokenize.work_folder import PiecePlan, ShardSettings, WorkFolder
from megacpt.shards.writer import MASK
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.auto_tokenizer import load_checked

DOCUMENT_BYTES_MAX = 1 << 26
OUTPUTS = ("bin", "idx", "json", MASK, QUARANTINE)


def tokenize(
    inputs: Sequence[Path | str],
    *,
    tokenizer: Tokenizer | Path | str,
    output_prefix: Path | str,
    key: str = "text",
    append_eos: bool = True,
    special: bool = True,
    workers: int = 0,
    on_error: OnError = OnError.stop,
    file_format: FileFormat | None = None,
    max_document_bytes: int = DOCUMENT_BYTES_MAX,
    piece_size: int | None = None,
    task: tuple[int, int] | None = None,
    progress: ProgressCallback | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> Manifest | None:
    """Write ``output_prefix``.bin, .idx and .json; files of these names are replaced at the end.

    ``inputs`` are files, folders, patterns or "-" (corpus.inputs). A document is what the tokenizer
    makes of a text, with what its own rule adds to it (BOS) unless ``special`` is off, and then
    EOS. ``workers`` is a number of threads, in processes of a few; 0 takes one for each core this
    process may use. ``task`` (k, n) makes the pieces k, k+n, k+2n ... alone and returns None; when
    all tasks are done, ``merge`` joins the pieces. ``notice`` gets what is not as expected.
    """
    _require_numbers(workers=workers, max_document_bytes=max_document_bytes, task=task)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_checked(tokenizer)
    for note in tokenizer.notes:
        notice(note)
    _require_eos(tokenizer, append_eos=append_eos)
    folder = WorkFolder(output_prefix)
    files = find_files(inputs, file_format=file_format, spool=folder.path, notice=notice)
    require_free_name(output_prefix, files=files)
    settings = _settings(
        tokenizer, append_eos=append_eos, special=special, key=key, max_bytes=max_document_bytes
    )
    size = piece_size or piece_bytes(sum(file.bytes for file in files))
    work = _Work(
        folder=folder,
        plan=_plan(files, settings=settings, size=size, notice=notice),
        tokenizer=tokenizer,
        workers=workers or num_cores(),
        on_error=on_error,
        task=task,
        progress=progress,
        notice=notice,
    )
    own_log = work.run()
    return None if task else merge(output_prefix, own_log=own_log)


def _plan(
    files: Sequence[SourceFile],
    *,
    settings: ShardSettings,
    size: int,
    notice: Callable[[str], None],
) -> PiecePlan:
    return PiecePlan(
        settings=settings,
        files=tuple(files),
        pieces=tuple(cut(files, size=size)),
        curated=curated([file.path for file in files], notice=notice),
    )


def _settings(
    tokenizer: Tokenizer, *, append_eos: bool, special: bool, key: str, max_bytes: int
) -> ShardSettings:
    return ShardSettings(
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_identity=of_fingerprint(tokenizer.fingerprint, identity=tokenizer.identity),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        append_eos=append_eos,
        special=special,
        key=key,
        max_document_bytes=max_bytes,
        dtype=choose_dtype(tokenizer.backend.vocab_size).name,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The pieces of a plan that this call is to make, and whom to tell."""

    folder: WorkFolder
    plan: PiecePlan
    tokenizer: Tokenizer
    workers: int
    on_error: OnError
    task: tuple[int, int] | None
    progress: ProgressCallback | None
    notice: Callable[[str], None]

    def run(self) -> str | None:
        """Make the pieces that are not finished; all of them by tokenizers if fastokens differs.

        Returns the log that this process wrote, if any.
        """
        self.folder.start(self.plan, is_task=self.task is not None, notice=self.notice)
        try:
            return self._make()
        except BackendDiffersError as error:
            self.folder.require_reference(error.text)
            self.notice(
                "fastokens and tokenizers differ on this corpus (as on "
                f"{error.text[:60]!r}): all is done again with tokenizers, which is slower."
            )
            return self._make()
        except MegacptError:
            # What was finished may be used again; without, nothing should stay behind.
            if not any(self.folder.path.glob("[0-9]*.json")):
                self.folder.remove()
            raise

    def _make(self) -> str | None:
        first, step = self.task or (0, 1)
        numbers = range(first, len(self.plan.pieces), step)
        records = {n: self.folder.record(n, on_error=self.on_error) for n in numbers}
        left = [number for number, record in records.items() if record is None]
        tally = _Tally(self._bytes_of(numbers), callback=self.progress)
        for record in records.values():
            if record is not None:
                tally.begin(record.bytes_read, documents=record.documents, tokens=record.tokens)
        if len(left) < len(records):
            self.notice(f"{len(records) - len(left)} of {len(records)} pieces are there already.")
        if not left:
            return None
        processes = num_processes(
            self.workers, num_pieces=len(left), num_bytes=self._bytes_of(left)
        )
        job = TokenizeJob(
            prefix=self.folder.prefix,
            tokenizer=self.tokenizer.folder,
            tokenizer_settings=self.tokenizer.settings,
            use_fast=not self.folder.reference_required,
            threads=-(-self.workers // processes),
            on_error=self.on_error,
        )
        runner = PieceTokenizer(job, plan=self.plan, tokenizer=self.tokenizer)
        run_pieces(left, runner=runner, job=job, processes=processes, report=tally.add)
        return runner.log

    def _bytes_of(self, numbers: Sequence[int]) -> int:
        return sum(extent.bytes for number in numbers for extent in self.plan.pieces[number])


class _Tally:
    """Adds up what all threads report."""

    def __init__(self, total_bytes: int, *, callback: ProgressCallback | None) -> None:
        self._total_bytes, self._callback = total_bytes, callback
        self._bytes = self._documents = self._tokens = 0
        self._bytes_before = self._tokens_before = 0
        self._lock = threading.Lock()

    def begin(self, num_bytes: int, *, documents: int, tokens: int) -> None:
        """Count a piece of an earlier run."""
        self._bytes_before += num_bytes
        self._tokens_before += tokens
        self._bytes += num_bytes
        self._documents += documents
        self._tokens += tokens

    def add(self, num_bytes: int, *, documents: int, tokens: int = 0) -> None:
        with self._lock:
            self._bytes += num_bytes
            self._documents += documents
            self._tokens += tokens
            if self._callback is not None:
                now = TokenizeProgress(
                    bytes_done=self._bytes,
                    bytes_total=self._total_bytes,
                    bytes_before=self._bytes_before,
                    documents=self._documents,
                    tokens=self._tokens,
                    tokens_before=self._tokens_before,
                )
                self._callback(now)


def _require_numbers(
    *, workers: int, max_document_bytes: int, task: tuple[int, int] | None
) -> None:
    if workers < 0:
        raise ConfigError(f"workers={workers} must be at least 0; 0 takes one for each core.")
    require_document_bytes(max_document_bytes)
    if task is not None:
        checked_share(task[0], tasks=task[1])


def require_document_bytes(max_document_bytes: int) -> None:
    if max_document_bytes < 1:
        raise ConfigError(
            f"max_document_bytes={max_document_bytes} must be at least 1; the default is "
            f"{DOCUMENT_BYTES_MAX}."
        )


def _require_eos(tokenizer: Tokenizer, *, append_eos: bool) -> None:
    if append_eos and tokenizer.eos_id is None:
        raise DataError(
            f"tokenizer {tokenizer.folder} names no end-of-text token, so documents cannot be told "
            f"apart; {tokenizer.backend.eos_remedy}. With --no-eos documents end without one."
        )


def require_free_name(prefix: Path | str, *, files: Sequence[SourceFile]) -> None:
    """Refuse to replace an input, or a JSON file that is no manifest."""
    outputs = {Path(f"{prefix}.{kind}").resolve() for kind in OUTPUTS}
    for file in files:
        if Path(file.path).resolve() in outputs:
            raise DataError(
                f"output prefix {prefix} would replace input {file.path}; choose another."
            )
    try:
        read_shard_manifest(prefix)
    except DataError as error:
        raise DataError(
            f"{manifest_path(prefix)} exists and is not a manifest of this megacpt; move it away "
            "or choose another output prefix."
        ) from error


__all__ = ["FileFormat", "OnError", "merge", "tokenize"]
