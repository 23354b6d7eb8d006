# SPDX-License-Identifier: Apache-2.0
"""Which tokens stand for what a curation has said is not learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megacpt.corpus.documents import Passage
from megacpt.corpus.formats import FileFormat, SourceFile
from megacpt.corpus.not_learned import MARK, NOT_LEARNED, spans_in
from megacpt.errors import DataError
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.backend import EncodeError
from megacpt.tokenizer.hugging_face import HuggingFaceBackend


def is_marked(passage: Passage) -> bool:
    """Whether any of its documents has spans that are not learned."""
    return isinstance(passage.content, bytes) and MARK in passage.content


def unexplained_spans(path: str) -> DataError:
    return DataError(
        f"{path} has documents with spans that are not to be learned ({NOT_LEARNED}), but lies in "
        "no folder with the curation.json that says so, and all of it would be learned; give the "
        "files where megacpt curate has put them, or remove the field."
    )


def require_readable_spans(
    paths: Sequence[str], *, files: Sequence[SourceFile], tokenizer: Tokenizer
) -> None:
    """DataError: spans that cannot be read, or tokens whose places in a text are not known."""
    if not isinstance(tokenizer.backend, HuggingFaceBackend):
        raise DataError(
            f"{paths[0]} has spans that are not to be learned (decontaminate.action=mask), and "
            f"tokenizer {tokenizer.folder} is no tokenizer.json, which alone says which characters "
            "a token stands for. Give the Hugging Face folder of the model, or curate with "
            "action=drop or cut."
        )
    for file in files:
        if file.path in paths and file.format is FileFormat.parquet:
            raise DataError(
                f"{file.path} has spans that are not to be learned (decontaminate.action=mask), "
                "which are read of lines of JSON alone; curate to form=jsonl_zst or jsonl."
            )


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
    assert isinstance(tokenizer.backend, HuggingFaceBackend), "require_readable_spans"
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


def laid_end_to_end(
    masks: Sequence[npt.NDArray[np.uint8]], *, lengths: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint8]:
    """One mask of documents of these lengths; all is learned where there are none, and EOS that was
    added to a document in any case."""
    mask_T = np.ones(int(lengths.sum()), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    for mask, start in zip(masks, starts, strict=False):
        mask_T[start : start + mask.size] = mask
    return mask_T
