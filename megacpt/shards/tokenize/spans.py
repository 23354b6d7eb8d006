# SPDX-License-Identifier: Apache-2.0
"""Which tokens stand for what a curation has said is not learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.corpus.not_learned import spans_in
from megacpt.errors import DataError
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.backend import EncodeError
from megacpt.tokenizer.hugging_face import HuggingFaceBackend


def mask_of(
    ids_T: npt.NDArray[np.integer[Any]], *, line: bytes, text: str, tokenizer: Tokenizer
) -> npt.NDArray[np.uint8]:
    """0 for each token with a character of a span of the document, T.

    ``ids_T`` are those of its text, with what the tokenizer's own rule adds.
    """
    mask_T = np.ones(ids_T.size, dtype=np.uint8)
    spans = spans_in(line, text=text)
    if not spans:
        return mask_T
    if not isinstance(tokenizer.backend, HuggingFaceBackend):
        raise DataError(
            "there are texts with spans that are not to be learned (decontaminate.action=mask), "
            f"and tokenizer {tokenizer.folder} is no tokenizer.json, which alone says which "
            "characters a token stands for. Give the Hugging Face folder of the model, or curate "
            "with action=drop or cut."
        )
    (located,) = tokenizer.backend.locate([text])
    if isinstance(located, EncodeError):
        raise DataError(f"the places of tokens in {text[:60]!r} are not known: {located}")
    size = located.ids.size
    for first in range(ids_T.size - size + 1):
        if np.array_equal(ids_T[first : first + size], located.ids):
            mask_T[first : first + size] -= located.within(spans)
            return mask_T
    raise DataError(
        f"tokenizer {tokenizer.folder} makes other tokens of {text[:60]!r} where it adds its own "
        "(BOS) and where it does not, so their places are not known; curate with "
        "decontaminate.action=drop or cut."
    )
