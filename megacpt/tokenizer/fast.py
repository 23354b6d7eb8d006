# SPDX-License-Identifier: Apache-2.0
"""tokenizer.json through fastokens, some thirty times as fast as ``tokenizers``.

It is another implementation, so it is only used where it proves equal: on the texts made here
before the work begins, and on excerpts of the corpus meanwhile (megacpt.shards.tokenize.encode).
Added tokens are looked for in two passes by ``tokenizers``, in one by fastokens: where that can
make a difference, and where tokens take blanks or words around them into account, it is not used.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import psutil

from megacpt.tokenizer.backend import (
    Encoded,
    EncodeError,
    Encoder,
    Outcome,
    encode_each,
    failure_told,
)
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

logger = logging.getLogger(__name__)

PAIRS_MAX = 1 << 20
"""Pairs of added tokens that are compared; more would take seconds."""
GROWTH_BYTES = 1 << 27
"""How far the memory of the process may grow before what fastokens keeps is thrown away."""
WORDS = (
    "The quick brown fox can't, won't; we'll see: I'VE 3.14159 and 1,000,000 x_y-z (a+b)*c != d",
    "   three blanks\ttab\n\n  \r\n trailing \n",
    "Größe naïve façade Ελληνικά кириллица עברית العربية हिन्दी ไทย 한국어 日本語 中文字符",
    "e\u0301 a\u030a\u0323 \ufb01 \u2126 \u00bd \u2460 \u200b\u200d\ufeff\u00a0\u3000\u2028",
    "👩\u200d💻🇫🇷🏽 \U00010348 \U0001f600\ufe0f",
    "\x00\x01\x7f\x85 \ufffd\ufffe a\x00b",
    "for (int i = 0; i < n; ++i) { s += a[i] << 2; }  // 0xFF\n\tdef f(x): return {'k': [1, 2]}\n",
    "a" * 300 + "!" * 70 + " " * 90 + "0" * 40 + "\n" * 30 + "日" * 50,
    "",
    " ",
    " one blank before",
    "1234 12345 a1b22",
    "I\u2019m it's they'LL",
)


class FastBackend:
    """Encodes as ``reference`` does, or ought to.

    fastokens keeps the ids of up to a million words, however long. A tokenizer that does not cut
    texts into words makes it keep whole documents, gigabytes of them; then it is read anew.
    """

    def __init__(self, library: ModuleType, *, content: bytes) -> None:
        self._library, self._content = library, content
        self._tokenizer = self._read()
        self._process = psutil.Process()
        self._memory_bytes_max = math.inf
        self._lock = threading.Lock()
        self.name = f"fastokens {importlib.metadata.version('fastokens')}"

    def _read(self) -> Any:
        tokenizer = self._library.Tokenizer.from_json_str(self._content.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def encode(self, texts: Sequence[str], *, special: bool) -> Encoded:
        with failure_told(self.name):
            ids, bounds = self._tokenizer.encode_batch_flat(list(texts), add_special_tokens=special)
        self._forget_if_grown()
        return Encoded(ids=np.frombuffer(ids, "<u4"), bounds=np.frombuffer(bounds, "<i8"))

    def _forget_if_grown(self) -> None:
        with self._lock:
            if self._process.memory_info().rss > self._memory_bytes_max:
                self._tokenizer = self._read()
                _return_freed_memory()
                self._memory_bytes_max = math.inf
            if self._memory_bytes_max == math.inf:
                self._memory_bytes_max = self._process.memory_info().rss + GROWTH_BYTES


def _return_freed_memory() -> None:
    """Glibc keeps what lies between blocks in use, here nearly all, until it is told not to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def read_fast(content: bytes) -> Encoder | None:
    """The faster backend, unproven; None where it is missing or cannot read the file."""
    try:
        import fastokens
    except ImportError:
        return None
    try:
        return FastBackend(fastokens, content=content)
    # Whatever its parser does not know it refuses with an exception of its own.
    except Exception as error:  # noqa: BLE001
        logger.info("fastokens cannot read this tokenizer: %s", error)
        return None


def read_in_background(content: bytes) -> Future[Encoder | None]:
    """``read_fast`` in a thread; it takes some tenths of a second, without Python's lock."""
    pool = ThreadPoolExecutor(1)
    pending = pool.submit(read_fast, content)
    pool.shutdown(wait=False)
    return pending


def load_fast(reference: HuggingFaceBackend) -> Encoder | None:
    """The faster backend, or None where it is missing or may differ on some text."""
    if not is_understood(reference):
        return None
    fast = reference.fast.result() if reference.fast else read_fast(reference.content)
    if fast is None:
        return None
    texts = probes([token.content for token in reference.added_tokens.values()])
    different = differing_text(texts, fast=fast, reference=reference, special=True)
    return fast if different is None else None


def is_understood(reference: HuggingFaceBackend) -> bool:
    """Whether fastokens finds the added tokens that ``tokenizers`` finds, in any text."""
    tokens = list(reference.added_tokens.values())
    if reference.splits_special or any(t.lstrip or t.rstrip or t.single_word for t in tokens):
        return False
    later = [token.content for token in tokens if token.normalized]
    first = [token.content for token in tokens if not token.normalized]
    if later and first and (reference.has_normalizer or len(later) * len(first) > PAIRS_MAX):
        return False
    return not any(may_overlap(one, other=other) for one in later for other in first)


def may_overlap(one: str, *, other: str) -> bool:
    """Whether there is a text in which both stand and share characters."""
    if one in other or other in one:
        return True
    sizes = range(1, min(len(one), len(other)))
    return any(one[-n:] == other[:n] or other[-n:] == one[:n] for n in sizes)


def probes(added_tokens: Sequence[str]) -> list[str]:
    """Texts on which implementations are known to part, each added token within several of them."""
    texts = list(WORDS)
    for token in added_tokens:
        texts += [token, f"a{token}b {token}  {token}\n{token}{token[:-1]} {token.upper()}"]
    return texts


def _are_equal(row: Outcome, *, other: Outcome) -> bool:
    if isinstance(row, EncodeError) or isinstance(other, EncodeError):
        return type(row) is type(other)
    return np.array_equal(row, other)


def differing_text(
    texts: Sequence[str], *, fast: Encoder, reference: Encoder, special: bool
) -> str | None:
    """The first text that one of them cannot encode, or to which they give different ids."""
    found, expected = (
        encode_each(texts, encoder=encoder, special=special) for encoder in (fast, reference)
    )
    rows = zip(texts, found, expected, strict=True)
    return next((text for text, row, right in rows if not _are_equal(row, other=right)), None)
