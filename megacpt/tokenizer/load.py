# SPDX-License-Identifier: Apache-2.0
"""A tokenizer is a folder: tokenizer.json, and files beside it that name the special tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from megacpt.errors import ModelError

TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """Encodes and decodes; ids are below ``vocab_size``."""

    folder: Path
    vocab_size: int
    """One more than the largest id, added tokens included: the embedding rows a model needs."""
    eos_id: int | None
    pad_id: int | None
    bos_id: int | None
    fingerprint: str
    """sha256 of tokenizer.json, in hex."""
    backend: tokenizers.Tokenizer

    def encode_batch(self, texts: Sequence[str], *, special: bool = True) -> list[TokenIds]:
        """Ids of each text; ``special`` adds what the tokenizer's own post-processor adds (BOS)."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=special)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode(self, text: str, *, special: bool = True) -> TokenIds:
        return self.encode_batch([text], special=special)[0]

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The text of ``ids``, special tokens shown."""
        return str(self.backend.decode([int(n) for n in ids], skip_special_tokens=False))


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Read ``folder/tokenizer.json`` and the special tokens."""
    folder = Path(folder)
    content = _read_tokenizer_json(folder)
    backend = _parse(content, path=folder / "tokenizer.json")
    # A stored truncation would cut documents, stored padding would lengthen them, both silently.
    backend.no_truncation()
    backend.no_padding()
    special = {name: _special_id(folder, backend, name) for name in ("eos", "pad", "bos")}
    return Tokenizer(
        folder=folder,
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        eos_id=special["eos"],
        pad_id=special["pad"],
        bos_id=special["bos"],
        fingerprint=hashlib.sha256(content).hexdigest(),
        backend=backend,
    )


def _read_tokenizer_json(folder: Path) -> bytes:
    if not folder.is_dir():
        raise ModelError(
            f"tokenizer folder {folder} does not exist; give the Hugging Face folder of the model."
        )
    try:
        return (folder / "tokenizer.json").read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} has no tokenizer.json; write one with "
            f"transformers.AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained(FOLDER)."
        ) from error
    except OSError as error:
        raise ModelError(
            f"{folder}/tokenizer.json cannot be read: {error.strerror}; check its permissions."
        ) from error


def _parse(content: bytes, *, path: Path) -> tokenizers.Tokenizer:
    # The library raises bare Exception for anything it cannot parse.
    try:
        return tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:
        raise ModelError(
            f"{path} is not a tokenizer the tokenizers library {tokenizers.__version__} can read: "
            f"{error}; copy the file again from where the model came."
        ) from error


def _special_id(folder: Path, backend: tokenizers.Tokenizer, name: str) -> int | None:
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


def _id_of(text: str, *, backend: tokenizers.Tokenizer, where: str) -> int:
    number = backend.token_to_id(text)
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
