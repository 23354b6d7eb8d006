# SPDX-License-Identifier: Apache-2.0
"""Conversations to a token shard, with a mask of what the assistant said.

In one process, from the first line to the last: conversations are few beside a corpus, and their
template takes longer than their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from megacpt.corpus.curation import Curated, curated
from megacpt.corpus.documents import QUARANTINE, OnError
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.inputs import find_files
from megacpt.errors import ConfigError, DataError
from megacpt.shards.chat.encode import ChatEncoder, EncodedChat, OnLong
from megacpt.shards.chat.scan import Scan
from megacpt.shards.chat.template import ChatTemplate, choose_template
from megacpt.shards.format import choose_dtype
from megacpt.shards.manifest import (
    BackendRecord,
    Manifest,
    chained,
    manifest_json,
    of_fingerprint,
)
from megacpt.shards.tokenize import (
    DOCUMENT_BYTES_MAX,
    require_document_bytes,
    require_free_name,
)
from megacpt.shards.tokenize.progress import ProgressCallback, TokenizeProgress
from megacpt.shards.tokenize.work_folder import WorkFolder
from megacpt.shards.writer import ShardFiles, ShardWriter
from megacpt.tokenizer import Tokenizer

KEY = "messages"
MAX_TOKENS_MIN = 2
"""The first token of a conversation is no target."""


def tokenize_chat(
    inputs: Sequence[Path | str],
    *,
    tokenizer: Tokenizer,
    output_prefix: Path | str,
    template: ChatTemplate | None = None,
    max_tokens: int | None = None,
    on_long: OnLong = OnLong.stop,
    on_error: OnError = OnError.stop,
    file_format: FileFormat | None = None,
    max_document_bytes: int = DOCUMENT_BYTES_MAX,
    progress: ProgressCallback | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write ``output_prefix``.bin, .idx, .mask and .json; files of these names are replaced at the
    end. ``template`` None: the tokenizer's own. ``max_tokens`` of a conversation; None: any."""
    _require_limits(max_tokens=max_tokens, max_document_bytes=max_document_bytes)
    for note in tokenizer.notes:
        notice(note)
    folder = WorkFolder(output_prefix)
    files = find_files(inputs, file_format=file_format, spool=folder.path, notice=notice)
    require_free_name(output_prefix, files=files)
    _require_records(files)
    scan = Scan(
        files=files,
        encoder=ChatEncoder(
            tokenizer=tokenizer,
            template=template or choose_template(None, tokenizer=tokenizer),
            max_tokens=max_tokens,
            on_long=on_long,
        ),
        on_error=on_error,
        max_document_bytes=max_document_bytes,
    )
    origins = curated([file.path for file in files], notice=notice)
    manifest = _write(scan, prefix=Path(output_prefix), origins=origins, progress=progress)
    folder.remove()  # It holds what came through a pipe.
    return manifest


def _require_limits(*, max_tokens: int | None, max_document_bytes: int) -> None:
    require_document_bytes(max_document_bytes)
    if max_tokens is not None and max_tokens < MAX_TOKENS_MIN:
        raise ConfigError(
            f"max_tokens={max_tokens} must be at least {MAX_TOKENS_MIN}: the first token of a "
            "conversation is no target; leave it out to take conversations of any length."
        )


def _require_records(files: Sequence[SourceFile]) -> None:
    for file in files:
        if file.format is FileFormat.text:
            raise DataError(
                f"{file.path} is text, which holds no conversations; give JSONL, JSON or Parquet, "
                "or name the format with --format."
            )


def _write(
    scan: Scan, *, prefix: Path, origins: Curated, progress: ProgressCallback | None
) -> Manifest:
    dtype = choose_dtype(scan.encoder.tokenizer.backend.vocab_size)
    with ShardWriter(prefix, dtype=dtype) as writer:
        for chat in _told(scan, writer=writer, progress=progress):
            writer.add(chat.ids_T)
            writer.add_mask(chat.learned_T)
        if writer.documents == 0:
            raise _nothing_found(scan)
        for file in scan.inputs:
            origins.require(file.path, sha256=file.sha256)
        if scan.quarantined:
            writer.write_beside(QUARANTINE, content=scan.quarantined)

        def described(files: ShardFiles) -> Manifest:
            return _manifest(scan, files=files, name=prefix.name, origins=origins)

        files = writer.publish(
            describe=lambda files: manifest_json(described(files)),
            beside=(QUARANTINE,) if scan.quarantined else (),
        )
    if not scan.quarantined:
        Path(f"{prefix}.{QUARANTINE}").unlink(missing_ok=True)
    return described(files)


def _told(
    scan: Scan, *, writer: ShardWriter, progress: ProgressCallback | None
) -> Iterator[EncodedChat]:
    num_bytes = scan.num_bytes
    for chat in scan.chats():
        yield chat
        if progress is not None:
            progress(
                TokenizeProgress(
                    bytes_done=scan.bytes_done,
                    bytes_total=num_bytes,
                    documents=writer.documents,
                    tokens=writer.tokens,
                )
            )


def _manifest(scan: Scan, *, files: ShardFiles, name: str, origins: Curated) -> Manifest:
    tokenizer = scan.encoder.tokenizer
    found = Manifest(
        name=name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_identity=of_fingerprint(tokenizer.fingerprint, identity=tokenizer.identity),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        append_eos=False,
        special=False,
        key=KEY,
        dtype=choose_dtype(tokenizer.backend.vocab_size).name,
        inputs=tuple(scan.inputs),
        curated=origins.origins,
        empty_documents=0,
        on_error=scan.on_error.value if scan.errors else OnError.stop.value,
        errors=dict(sorted(scan.errors.items())),
        backends=(BackendRecord(name=tokenizer.backend.name, documents=files.documents),),
        chat_template=scan.encoder.template.text,
        truncated_documents=scan.truncated,
        **asdict(files),
    )
    return chained(found)


def _nothing_found(scan: Scan) -> DataError:
    names = ", ".join(file.path for file in scan.files)
    kinds = ", ".join(f"{n} lines are {kind}" for kind, n in sorted(scan.errors.items()))
    return DataError(
        f"{names} holds no conversation ({kinds or 'no lines'}); give files with some."
    )
