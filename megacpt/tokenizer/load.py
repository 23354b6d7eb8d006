# SPDX-License-Identifier: Apache-2.0
"""Tokenizers from a Hugging Face folder or a file: tokenizer.json, SentencePiece, tiktoken.

In a folder, tokenizer.json is read, and the files beside it that name the special tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.errors import ModelError
from megacpt.tokenizer.backend import Backend, decode
from megacpt.tokenizer.fast import read_in_background
from megacpt.tokenizer.folder import add_tokens, read_beside, special_id
from megacpt.tokenizer.hugging_face import HuggingFaceBackend
from megacpt.tokenizer.outdated import require_current
from megacpt.tokenizer.sentence_piece import SentencePieceBackend
from megacpt.tokenizer.tiktoken_file import NAMES, TiktokenBackend, read_settings

FILE = "tokenizer.json"
TokenIds = npt.NDArray[np.int32]
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """Encodes and decodes; ids are below ``backend.vocab_size``."""

    folder: Path
    """The folder, or the file that is not in a model's folder."""
    vocab_size: int
    """The embedding rows a model needs. Less than ``backend.vocab_size`` where special tokens have
    a name in tokenizer_config.json and are nowhere else."""
    eos_id: int | None
    pad_id: int | None
    bos_id: int | None
    fingerprint: str
    """sha256 of the tokenizer's file, in hex, with what other files add to it (a tiktoken file's
    settings, tokens that tokenizer.json lacks)."""
    backend: Backend
    file_fingerprint: str = ""
    """sha256 of the file alone."""
    settings: str | None = None
    """What load_tokenizer was given besides the path."""
    notes: tuple[str, ...] = ()
    """What whoever encodes with it should be told."""

    def encode_batch(self, texts: Sequence[str], *, special: bool = True) -> list[TokenIds]:
        """Ids of each text; ``special`` adds what the tokenizer's own rule adds (BOS)."""
        return self.backend.encode(texts, special=special).rows()

    def encode(self, text: str, *, special: bool = True) -> TokenIds:
        return self.encode_batch([text], special=special)[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The text of any ids, special tokens shown, and by number those that are no token's."""
        return decode([int(n) for n in ids], backend=self.backend)

    @property
    def identity(self) -> str:
        """If known, the same wherever the ids of all texts are, however the file is written."""
        return self.backend.identity

    def wrote(self, fingerprint: str, *, identity: str) -> bool:
        """Whether ids on record with these are its own. Older records have no identity."""
        if not identity:
            return fingerprint in (self.fingerprint, self.file_fingerprint)
        return fingerprint == self.fingerprint or identity == self.identity


def load_tokenizer(
    path: Path | str, *, settings: str | None = None, fast: bool = False
) -> Tokenizer:
    """Read a Hugging Face folder, a tokenizer.json, a SentencePiece model or a tiktoken file.

    ``settings`` says what a tiktoken file does not: JSON, or the name of a file of it. ``fast``:
    much is to be encoded, so fastokens reads tokenizer.json as well, at the same time.
    """
    path = Path(path)
    if not path.is_file():
        return _load_hugging_face(path, path=path / FILE, fast=fast)
    if path.suffix == ".json":
        return _load_hugging_face(path.parent, path=path, fast=fast)
    content = _read(path)
    if TIKTOKEN_LINE.match(content):
        return _load_tiktoken(path, content=content, settings=settings)
    if (path.parent / FILE).is_file():
        made = _load_hugging_face(path.parent, path=path.parent / FILE, fast=fast)
        note = f"{path} lies beside {FILE}, which its model is read with: the folder is used."
        return replace(made, notes=(*made.notes, note))
    model = SentencePieceBackend(content, path=path)
    return _tokenizer(path, backend=model, special_ids=model.special_ids, content=content)


def _load_hugging_face(folder: Path, *, path: Path, fast: bool) -> Tokenizer:
    if not folder.is_dir():
        raise ModelError(
            f"tokenizer folder {folder} does not exist; give the Hugging Face folder of the model."
        )
    content = _read(path)
    require_current(hashlib.sha256(content).hexdigest(), where=path)
    pending = read_in_background(content) if fast else None
    backend = HuggingFaceBackend(content, path=path)
    if backend.content is content:
        backend.fast = pending
    beside = read_beside(folder)
    rows = add_tokens(backend, beside=beside)
    made = _tokenizer(
        folder if path == folder / FILE else path,
        backend=backend,
        special_ids={n: special_id(n, beside=beside, backend=backend) for n in NAMES},
        content=content,
        beside="\n".join(backend.additions),
    )
    told = f"{path} asks for dropout={backend.dropout}: encoded without, so that ids do not vary."
    return replace(made, vocab_size=rows, notes=(told,) if backend.dropout else ())


def _load_tiktoken(path: Path, *, content: bytes, settings: str | None) -> Tokenizer:
    read = read_settings(path, given=settings)
    backend = TiktokenBackend(content, path=path, settings=read)
    made = _tokenizer(
        path, backend=backend, special_ids=read.special_ids, content=content, beside=read.text
    )
    return replace(made, settings=settings)


def _tokenizer(
    path: Path,
    *,
    backend: Backend,
    special_ids: Mapping[str, int | None],
    content: bytes,
    beside: str = "",
) -> Tokenizer:
    return Tokenizer(
        folder=path,
        vocab_size=backend.vocab_size,
        eos_id=special_ids.get("eos"),
        pad_id=special_ids.get("pad"),
        bos_id=special_ids.get("bos"),
        fingerprint=hashlib.sha256(content + beside.encode()).hexdigest(),
        file_fingerprint=hashlib.sha256(content).hexdigest(),
        backend=backend,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} has no {path.name}; write one with "
            f"transformers.AutoTokenizer.from_pretrained({str(path.parent)!r})"
            ".save_pretrained(FOLDER), or give a SentencePiece .model or .tiktoken file by name."
        ) from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}; check its permissions."
        ) from error
