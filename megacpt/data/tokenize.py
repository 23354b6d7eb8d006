# SPDX-License-Identifier: Apache-2.0
"""JSONL documents to a token shard with a manifest, on several processes.

The parent reads blocks of whole lines and writes tokens in the order of the blocks; workers turn a
block into tokens. So the bytes do not depend on the number of workers, and what is in memory is
the few blocks under way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megacpt.data.jsonl import Block, JsonlReader, parse_texts
from megacpt.data.manifest import Manifest, manifest_path, read_manifest, render
from megacpt.data.progress import Progress, ProgressCallback
from megacpt.data.shard_format import choose_dtype
from megacpt.data.shard_writer import ShardFiles, ShardWriter
from megacpt.data.workers import map_in_order
from megacpt.errors import ConfigError, DataError
from megacpt.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """The documents of one block."""

    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    empty_documents: int


def tokenize(
    inputs: Sequence[Path | str],
    *,
    tokenizer: Tokenizer | Path | str,
    output_prefix: Path | str,
    key: str = "text",
    append_eos: bool = True,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Write ``output_prefix``.bin, .idx and .json from JSONL files, plain or .gz.

    ``tokenizer`` is a Hugging Face folder, or what load_tokenizer made of one. A document is what
    the tokenizer makes of the text with its own special tokens (BOS where it has one), then EOS.
    ``workers`` is a number of processes; 0 takes one for each core this process may use. Files that
    bear the output's name are replaced when all is written, and not touched before.
    """
    if workers < 0:
        raise ConfigError(f"workers={workers} must be at least 0; 0 takes one for each core.")
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
    _require_eos(tokenizer, append_eos=append_eos)
    reader = JsonlReader(inputs)
    _require_free_name(output_prefix, reader.paths)
    encoder = _Encoder(tokenizer, key=key, append_eos=append_eos)
    blocks = _encode_all(reader, encoder, workers=workers or _usable_cores())
    with ShardWriter(output_prefix, dtype=choose_dtype(tokenizer.vocab_size)) as writer:
        with closing(blocks):
            empty = _write_all(writer, blocks, reader=reader, progress=progress)
        if writer.documents == 0:
            raise _nothing_found(reader, key=key, empty=empty)

        def describe(files: ShardFiles) -> Manifest:
            return Manifest(
                name=Path(output_prefix).name,
                tokenizer_fingerprint=tokenizer.fingerprint,
                vocab_size=tokenizer.vocab_size,
                eos_id=tokenizer.eos_id,
                append_eos=append_eos,
                key=key,
                empty_documents=empty,
                dtype=writer.dtype.name,
                inputs=tuple(reader.files),
                **asdict(files),
            )

        return describe(writer.publish(describe=lambda files: render(describe(files))))


def _write_all(
    writer: ShardWriter,
    blocks: Iterator[tuple[Block, _Encoded]],
    *,
    reader: JsonlReader,
    progress: ProgressCallback | None,
) -> int:
    """Write all blocks; return the number of empty documents."""
    empty = 0
    for block, encoded in blocks:
        writer.add_many(encoded.tokens, lengths=encoded.lengths)
        empty += encoded.empty_documents
        if progress:
            now = Progress(
                bytes_done=block.bytes_read,
                bytes_total=reader.total_bytes,
                documents=writer.documents,
                tokens=writer.tokens,
            )
            progress(now)
    return empty


def _usable_cores() -> int:
    """Fewer than the machine's where a container or a batch system says so (Linux knows)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _require_eos(tokenizer: Tokenizer, *, append_eos: bool) -> None:
    if append_eos and tokenizer.eos_id is None:
        raise DataError(
            f"tokenizer {tokenizer.folder} names no end-of-text token, so documents cannot be told "
            "apart; set eos_token in its tokenizer_config.json."
        )


def _require_free_name(prefix: Path | str, inputs: Iterable[Path]) -> None:
    """Refuse to replace an input, or a JSON file that is no manifest."""
    outputs = {Path(f"{prefix}.{kind}").resolve() for kind in ("bin", "idx", "json")}
    for path in inputs:
        if path.resolve() in outputs:
            raise DataError(f"output prefix {prefix} would replace input {path}; choose another.")
    try:
        read_manifest(prefix)
    except DataError as error:
        raise DataError(
            f"{manifest_path(prefix)} exists and is not a manifest of this megacpt; move it away "
            "or choose another output prefix."
        ) from error


def _nothing_found(reader: JsonlReader, *, key: str, empty: int) -> DataError:
    names = ", ".join(str(path) for path in reader.paths) or "no files"
    counted = f"all {empty} texts under {key!r} are empty" if empty else "no lines"
    return DataError(f"the corpus is empty ({names}: {counted}); give files with text.")


class _Encoder:
    """Turns blocks into tokens; a copy sent to another process loads the tokenizer there."""

    def __init__(self, tokenizer: Tokenizer, *, key: str, append_eos: bool) -> None:
        self._tokenizer = tokenizer
        self._key = key
        self._append_eos = append_eos

    def __reduce__(self) -> tuple[Callable[..., _Encoder], tuple[Path, str, bool]]:
        return _load_encoder, (self._tokenizer.folder, self._key, self._append_eos)

    def __call__(self, block: Block) -> _Encoded:
        texts = parse_texts(block, key=self._key)
        rows = self._tokenizer.encode_batch([text for text in texts if text])
        if self._append_eos:
            rows = [self._ended(row) for row in rows]
        rows = [row for row in rows if row.size]
        return _Encoded(
            tokens=np.concatenate([np.zeros(0, dtype=np.int32), *rows]),
            lengths=np.array([row.size for row in rows], dtype=np.int32),
            empty_documents=len(texts) - len(rows),
        )

    def _ended(self, row: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """With EOS at the end, once: some tokenizers add it themselves."""
        eos_id = self._tokenizer.eos_id
        assert eos_id is not None
        if row.size and row[-1] == eos_id:
            return row
        return np.append(row, np.int32(eos_id))


def _load_encoder(folder: Path, key: str, append_eos: bool) -> _Encoder:
    return _Encoder(load_tokenizer(folder), key=key, append_eos=append_eos)


def _encode_all(
    blocks: Iterable[Block], encoder: _Encoder, *, workers: int
) -> Generator[tuple[Block, _Encoded], None, None]:
    """Every block with its documents, in order; a single worker is this process."""
    if workers == 1:
        yield from ((block, encoder(block)) for block in blocks)
    else:
        yield from map_in_order(blocks, encoder, workers=workers)
