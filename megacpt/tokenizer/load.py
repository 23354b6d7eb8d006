# SPDX-License-Identifier: Apache-2.0
"""Tokenizers from a Hugging Face folder or a file: tokenizer.json, SentencePiece, tiktoken.

In a folder, tokenizer.json is read, and the files beside it that name the special tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.errors import ModelError
from megacpt.tokenizer.backend import Backend
from megacpt.tokenizer.fast import read_in_background
from megacpt.tokenizer.hugging_face import HuggingFaceBackend
from megacpt.tokenizer.outdated import require_current
from megacpt.tokenizer.sentence_piece import SentencePieceBackend
from megacpt.tokenizer.tiktoken_file import TiktokenBackend, read_settings

TokenIds = npt.NDArray[np.int32]
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """Encodes and decodes; ids are below ``vocab_size``."""

    folder: Path
    """The folder, or the file that is not in a model's folder."""
    vocab_size: int
    """One more than the largest id, added tokens included: the embedding rows a model needs."""
    eos_id: int | None
    pad_id: int | None
    bos_id: int | None
    fingerprint: str
    """sha256 of the tokenizer's file, in hex (of a tiktoken file, with its settings)."""
    backend: Backend
    settings: str | None = None
    """What load_tokenizer was given besides the path."""

    def encode_batch(self, texts: Sequence[str], *, special: bool = True) -> list[TokenIds]:
        """Ids of each text; ``special`` adds what the tokenizer's own rule adds (BOS)."""
        return self.backend.encode(texts, special=special).rows()

    def encode(self, text: str, *, special: bool = True) -> TokenIds:
        return self.encode_batch([text], special=special)[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The text of ``ids``, special tokens shown."""
        return self.backend.decode([int(n) for n in ids])


def load_tokenizer(
    path: Path | str, *, settings: str | None = None, fast: bool = False
) -> Tokenizer:
    """Read a Hugging Face folder, a tokenizer.json, a SentencePiece model or a tiktoken file.

    ``settings`` says what a tiktoken file does not: JSON, or the name of a file of it. ``fast``:
    much is to be encoded, so fastokens reads tokenizer.json as well, at the same time.
    """
    path = Path(path)
    if path.is_file() and path.suffix != ".json":
        content = _read(path)
        if TIKTOKEN_LINE.match(content):
            return _load_tiktoken(path, content=content, settings=settings)
        model = SentencePieceBackend(content, path=path)
        return _tokenizer(path, backend=model, special_ids=model.special_ids, content=content)
    folder = path.parent if path.is_file() else path
    file = path if path.is_file() else folder / "tokenizer.json"
    return _load_hugging_face(folder, path=file, fast=fast)


def _load_hugging_face(folder: Path, *, path: Path, fast: bool) -> Tokenizer:
    if not folder.is_dir():
        raise ModelError(
            f"tokenizer folder {folder} does not exist; give the Hugging Face folder of the model."
        )
    content = _read(path)
    require_current(hashlib.sha256(content).hexdigest(), where=path)
    pending = read_in_background(content) if fast else None
    backend = HuggingFaceBackend(content, path=path)
    backend.fast = pending
    special_ids = {
        name: _special_id(folder, backend=backend, name=name) for name in ("eos", "pad", "bos")
    }
    named = folder if path == folder / "tokenizer.json" else path
    return _tokenizer(named, backend=backend, special_ids=special_ids, content=content)


def _load_tiktoken(path: Path, *, content: bytes, settings: str | None) -> Tokenizer:
    read = read_settings(path, given=settings)
    backend = TiktokenBackend(content, path=path, settings=read)
    content += read.text.encode()
    made = _tokenizer(path, backend=backend, special_ids=read.special_ids, content=content)
    return replace(made, settings=settings)


def _tokenizer(
    path: Path, *, backend: Backend, special_ids: Mapping[str, int | None], content: bytes
) -> Tokenizer:
    return Tokenizer(
        folder=path,
        vocab_size=backend.vocab_size,
        eos_id=special_ids.get("eos"),
        pad_id=special_ids.get("pad"),
        bos_id=special_ids.get("bos"),
        fingerprint=hashlib.sha256(content).hexdigest(),
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


def _special_id(folder: Path, *, backend: HuggingFaceBackend, name: str) -> int | None:
    """The id of ``name`` (eos, pad, bos): by its text where one is given, else by number."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read_json(folder / file).get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if text is not None:
            return _id_of(str(text), backend=backend, where=f"{folder / file}: {name}_token")
    for file in ("generation_config.json", "config.json"):
        number = _read_json(folder / file).get(f"{name}_token_id")
        first = number[0] if isinstance(number, list) and number else number
        if isinstance(first, int):
            return first if first >= 0 else None
    return None


def _id_of(text: str, *, backend: HuggingFaceBackend, where: str) -> int:
    number = backend.id_of(text)
    if number is None:
        raise ModelError(
            f"{where}={text!r} is not in the vocabulary of tokenizer.json; "
            "the two files are of different tokenizers, copy both from one model."
        )
    return int(number)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}; copy it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content
