# SPDX-License-Identifier: Apache-2.0
"""What the files beside a tokenizer.json say of it: more tokens, and which of them end a text.

Tokens are added as transformers' AutoTokenizer adds them, so that they get its ids:
tokenizer_config.json's ``added_tokens_decoder``, or in its absence added_tokens.json; then special
tokens by their names, from tokenizer_config.json and, without that, special_tokens_map.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from megacpt.errors import ModelError
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

CONFIG, SPECIAL_MAP, ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
DECLARED = "added_tokens_decoder"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""In the order in which they get their ids."""
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
EXTRA = ("extra_special_tokens", "additional_special_tokens")
"""transformers 5 reads the second only where the first is missing or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The files that lie beside a tokenizer.json; empty where they are missing."""

    folder: Path
    config: dict[str, Any]
    special_map: dict[str, Any]
    added: dict[str, Any]

    @property
    def is_complete(self) -> bool:
        """Whether tokenizer_config.json declares all tokens, so that older files do not count."""
        return DECLARED in self.config

    def special(self) -> dict[str, Any]:
        """What the special tokens are, by name."""
        return self.config if self.is_complete else self.config | self.special_map


def read_beside(folder: Path) -> Beside:
    beside = Beside(
        folder=folder,
        config=read_json(folder / CONFIG),
        special_map=read_json(folder / SPECIAL_MAP),
        added=read_json(folder / ADDED),
    )
    other = [
        name for name in beside.config.get("fast_tokenizer_files", ()) if name != "tokenizer.json"
    ]
    if other:
        raise ModelError(
            f"{folder / CONFIG}: fast_tokenizer_files names {other[0]}, which transformers may "
            "read instead of tokenizer.json; keep the file that is meant as tokenizer.json, and "
            "take the key out."
        )
    return beside


def add_tokens(backend: HuggingFaceBackend, *, beside: Beside) -> int:
    """Add all that the files name; returns the rows of embeddings that a model needs.

    A special token that is only named (most often ``pad_token``) needs none: few texts hold it.
    """
    declared = _declared(beside, backend=backend)
    if declared:
        backend.add([declared[number] for number in sorted(declared)])
    for number, token in declared.items():
        _require_id(token.content, number=number, backend=backend, beside=beside)
    _require_end(beside, backend=backend)
    known = {token.content for token in backend.added_tokens.values()}
    rows = backend.vocab_size
    backend.add([token for token in _named(beside, backend=backend) if token.content not in known])
    with_named = backend.vocab_size
    backend.add([token for token in _extra(beside) if token.content not in known])
    if beside.config.get("split_special_tokens"):
        backend.split_special()
    return rows if backend.vocab_size == with_named else backend.vocab_size


def _declared(beside: Beside, *, backend: HuggingFaceBackend) -> dict[int, AddedToken]:
    """Tokens that the files give an id."""
    if beside.is_complete:
        declared = beside.config[DECLARED]
        return {
            int(number): _token(token, beside=beside, special=False)
            for number, token in declared.items()
        }
    special = {token.content for token in (*_named(beside, backend=backend), *_extra(beside))}
    taken = backend.added_tokens
    return {
        int(number): AddedToken(text, normalized=text not in special, special=text in special)
        for text, number in beside.added.items()
        if number not in taken
    }


def _named(beside: Beside, *, backend: HuggingFaceBackend) -> list[AddedToken]:
    """Special tokens of a role: the known ones, then those of this model."""
    # Padding that is stored in tokenizer.json names its token, too.
    found: dict[str, Any] = {"pad_token": backend.pad_token} | beside.special()
    others = [name for name in found if name.endswith("_token") and name not in NAMED]
    named = [found.get(name) for name in (*NAMED, *others)]
    extra = found.get(EXTRA[0])
    if isinstance(extra, Mapping):
        named += extra.values()
    tokens = [_token(t, beside=beside) for t in named if isinstance(t, str | Mapping)]
    for token in tokens:
        token.special = True
    return tokens


def _extra(beside: Beside) -> Iterator[AddedToken]:
    """Special tokens without a role."""
    special = beside.special()
    found = next((special[name] for name in EXTRA if special.get(name)), ())
    if not isinstance(found, Mapping):
        yield from (_token(token, beside=beside) for token in found)


def _token(value: Any, *, beside: Beside, special: bool = True) -> AddedToken:
    """A token as the files write it, its text or an object that need not say ``special``."""
    try:
        if isinstance(value, str):
            return AddedToken(value, special=True)
        # The library prints other names.
        flags = {name: value[name] for name in FLAGS if name in value}
        return AddedToken(value["content"], **{"special": special} | flags)
    except (TypeError, ValueError, LookupError) as error:
        raise ModelError(
            f"{beside.folder / CONFIG} or {SPECIAL_MAP} declares the token {value!r}, which cannot "
            f"be read ({error}); copy the files again from where the model came."
        ) from error


def _require_id(text: str, *, number: int, backend: HuggingFaceBackend, beside: Beside) -> None:
    if backend.id_of(text) != number:
        file, key = (CONFIG, f": {DECLARED}") if beside.is_complete else (ADDED, "")
        raise ModelError(
            f"{beside.folder / file}{key} gives {text!r} the id {number}, but with tokenizer.json "
            f"it has {backend.id_of(text)}; the files contradict each other: copy all of them from "
            "one model."
        )


def _require_end(beside: Beside, *, backend: HuggingFaceBackend) -> None:
    """A document must not end with an id that no model has learned."""
    text, where = _text_of("eos", beside=beside)
    if text is not None and backend.id_of(text) is None:
        raise ModelError(
            f"{where}={text!r} is not in the vocabulary of tokenizer.json; "
            "the two files are of different tokenizers, copy both from one model."
        )


def _text_of(name: str, *, beside: Beside) -> tuple[str | None, str]:
    files = ((CONFIG, beside.config), (SPECIAL_MAP, beside.special_map))
    for file, content in files if beside.is_complete else reversed(files):
        token = content.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if text is not None:
            return str(text), f"{beside.folder / file}: {name}_token"
    return None, ""


def special_id(name: str, *, beside: Beside, backend: HuggingFaceBackend) -> int | None:
    """The id of ``name`` (eos, pad, bos): by its text where one is given, else by number."""
    text, _ = _text_of(name, beside=beside)
    if text is not None:
        return backend.id_of(text)
    for file in ("generation_config.json", "config.json"):
        number = read_json(beside.folder / file).get(f"{name}_token_id")
        first = number[0] if isinstance(number, list) and number else number
        if isinstance(first, int):
            return first if first >= 0 else None
    return None


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}; copy it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content
