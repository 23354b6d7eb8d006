# SPDX-License-Identifier: Apache-2.0
"""The BPE of a tokenizer.json: the words it cuts a text into, and their tokens.

A word is what merges do not reach across: a piece of the file's pre-tokenizer, and of a tokenizer
that writes blanks as U+2581 and cuts nothing, what begins with such a mark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import tokenizers

from megacpt.errors import ModelError
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

BLANK = "\u2581"
BEFORE = "\n"
"""What stands in front of a text, so that nothing takes it for the beginning of a document."""
AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
"""With one of these the text of a merged token is not that of its parts, one after the other."""

Ids = tuple[int, ...]


class Bpe:
    """Reads ``tokenizer``, whose kind must be BPE; ModelError says how else to go on."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        backend, where = tokenizer.backend, tokenizer.folder
        if not isinstance(backend, HuggingFaceBackend):
            raise ModelError(
                f"{where} is no tokenizer.json, and its format takes no tokens; give the model's "
                "folder after transformers.AutoTokenizer has written its tokenizer.json there."
            )
        self.num_ids = tokenizer.vocab_size
        """Those that a model has rows for; a special token that is only named has none."""
        self.stated: dict[str, Any] = json.loads(backend.content)
        self.stated["added_tokens"] = [
            token for token in self.stated["added_tokens"] if token["id"] < self.num_ids
        ]
        self.added = {token["id"]: str(token["content"]) for token in self.stated["added_tokens"]}
        model = self.stated["model"]
        self._require_plain(model, where=str(where))
        self.ids: dict[str, int] = model["vocab"] | {text: n for n, text in self.added.items()}
        self.strings: dict[int, str] = {number: text for text, number in self.ids.items()}
        self.merges = {
            tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
            for merge in model["merges"]
        }
        self._library = tokenizers.Tokenizer.from_str(backend.content.decode("utf-8"))
        self._library.no_truncation()
        self._library.no_padding()

    @staticmethod
    def _require_plain(model: dict[str, Any], *, where: str) -> None:
        if model["type"] != "BPE":
            raise ModelError(
                f"{where}: the model of tokenizer.json is {model['type']}, and tokens are merged "
                "into BPE alone; add them with transformers (tokenizer.add_tokens and "
                "model.resize_token_embeddings), or take a model with a BPE tokenizer."
            )
        odd = [name for name in AFFIXES if model.get(name)]
        if odd:
            raise ModelError(
                f"{where}: tokenizer.json has a {odd[0]}, with which its merges cannot be "
                "continued; take a model whose tokenizer has none."
            )

    @cached_property
    def _prefix(self) -> list[int]:
        return list(self._library.encode(BEFORE, add_special_tokens=False).ids)

    def words(self, texts: Sequence[str]) -> list[list[Ids]]:
        """The tokens of each word of each text, as it stands within a document."""
        inside = self._encode([BEFORE + text for text in texts])
        found = [self._cut(e, skip=len(self._prefix)) for e in inside]
        alone = [n for n, e in enumerate(inside) if e.ids[: len(self._prefix)] != self._prefix]
        for n, encoding in zip(alone, self._encode([texts[n] for n in alone]), strict=True):
            found[n] = self._cut(encoding, skip=0)
        return found

    def _encode(self, texts: list[str]) -> list[tokenizers.Encoding]:
        return list(self._library.encode_batch(texts, add_special_tokens=False))

    def _cut(self, encoding: tokenizers.Encoding, *, skip: int) -> list[Ids]:
        words: list[list[int]] = []
        before: int | None = None
        ids, numbers = encoding.ids[skip:], encoding.word_ids[skip:]
        for number, word in zip(ids, numbers, strict=True):
            if not words or word != before or self.strings[number].startswith(BLANK):
                words.append([])
            words[-1].append(number)
            before = word
        return [tuple(word) for word in words]

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as people read them."""
        return str(self._library.decode(list(ids), skip_special_tokens=False))

    def spelled_in_bytes(self, ids: Sequence[int]) -> list[str]:
        """Tokens that stand for a byte of a character that the vocabulary lacks, or for any
        unknown character: nothing can be merged with them."""
        model = self.stated["model"]
        unknown = model.get("unk_token")
        strings = [self.strings[number] for number in ids]
        return [
            text
            for text in strings
            if text == unknown or (model.get("byte_fallback") and text.startswith("<0x"))
        ]
