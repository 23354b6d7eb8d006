# SPDX-License-Identifier: Apache-2.0
"""A tiktoken file: a line for each token, base64 and rank.

The file holds neither the pattern that cuts text into words nor the special tokens, so a JSON
object has to say them, in FILE.json beside the file or given by name:

    {"pattern": "...", "special_tokens": {"<|endoftext|>": 151643}, "eos_token": "<|endoftext|>"}

``bos_token`` and ``pad_token`` may be there too. A document begins with BOS where one is named.
Special tokens inside a text become their ids, as they do in Hugging Face tokenizers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from megacpt.errors import EnvironmentError_, ModelError
from megacpt.tokenizer.backend import Encoded, failure_told, join

NAMES = ("eos", "bos", "pad")


@dataclass(frozen=True, slots=True, kw_only=True)
class TiktokenSettings:
    pattern: str
    special_tokens: dict[str, int]
    special_ids: dict[str, int]
    """Ids of eos, bos and pad, those that are named."""

    @property
    def text(self) -> str:
        """The settings in one form, for the fingerprint."""
        named = {f"{name}_token": number for name, number in self.special_ids.items()}
        return json.dumps([self.pattern, self.special_tokens, named], sort_keys=True)


class TiktokenBackend:
    eos_remedy = "name it as eos_token in its settings"

    def __init__(self, content: bytes, *, path: Path, settings: TiktokenSettings) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise EnvironmentError_(
                f"{path} needs the package tiktoken: pip install 'megacpt[data]'"
            ) from error
        ranks = _ranks(content, path=path)
        try:
            self._encoding = tiktoken.Encoding(
                path.name,
                pat_str=settings.pattern,
                mergeable_ranks=ranks,
                special_tokens=settings.special_tokens,
            )
        # The Rust part raises bare exceptions of its own for patterns it cannot compile.
        except Exception as error:
            raise ModelError(
                f"{path} cannot be used with its settings ({error}); check pattern and "
                "special_tokens."
            ) from error
        self._ranks, self._settings = ranks, settings
        self._bos_id = settings.special_ids.get("bos")
        self.vocab_size = self._encoding.n_vocab
        self.name = f"tiktoken {tiktoken.__version__}"

    @cached_property
    def identity(self) -> str:
        """Of the tokens in the order of their ranks: lines may stand in any order and end in any
        way."""
        digest = hashlib.sha256(self._settings.text.encode())
        for token, rank in sorted(self._ranks.items(), key=itemgetter(1)):
            digest.update(b"%d %d " % (rank, len(token)) + token)
        return digest.hexdigest()

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        with failure_told(self.name):
            rows = self._encoding.encode_batch(list(texts), num_threads=1, allowed_special="all")
        if special and self._bos_id is not None:
            rows = [[self._bos_id, *row] for row in rows]
        return join(rows)

    def knows(self, number: int) -> bool:
        try:
            self._encoding.decode_single_token_bytes(number)
        except (KeyError, OverflowError):
            return False
        return True

    def decode(self, ids: list[int]) -> str:
        return self._encoding.decode(ids)


def _ranks(content: bytes, *, path: Path) -> dict[bytes, int]:
    try:
        pairs = (line.split() for line in content.splitlines() if line)
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise ModelError(
            f"{path} is not a tiktoken file ({error}); each line must hold a token in base64 and "
            "its rank."
        ) from error


def read_settings(path: Path, *, given: str | None) -> TiktokenSettings:
    """``given`` is JSON, or the name of a file of it; without, it is ``path``.json."""
    where = "--tokenizer-settings" if given and given.startswith("{") else given or f"{path}.json"
    try:
        is_text = given is not None and given.startswith("{")
        text = str(given) if is_text else Path(where).read_text(encoding="utf-8")
        content: Any = json.loads(text)
        special = {str(token): int(number) for token, number in content["special_tokens"].items()}
        pattern = str(content["pattern"])
        tokens = {name: content.get(f"{name}_token") for name in NAMES}
        named = {name: special[token] for name, token in tokens.items() if token}
    except FileNotFoundError as error:
        raise ModelError(
            f"tiktoken file {path} says neither its pattern nor its special tokens, and {where} "
            'does not exist; write {"pattern": ..., "special_tokens": {TOKEN: ID}, "eos_token": '
            "TOKEN} there, or name such a file with --tokenizer-settings."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{where} must be a JSON object with pattern, special_tokens and eos_token "
            f"({type(error).__name__}: {error}); correct it."
        ) from error
    return TiktokenSettings(pattern=pattern, special_tokens=special, special_ids=named)
