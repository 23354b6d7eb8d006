# SPDX-License-Identifier: Apache-2.0
"""Is a Hugging Face folder fit to be trained on? Looked at before a GPU hour is spent."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from megacpt.errors import ModelError
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import end_ids
from megacpt.families.stored.places import table_name
from megacpt.families.weights import Role
from megacpt.model.hf_tensors import HfTensors
from megacpt.tokenizer import Tokenizer

NEAR_ZERO = 0.01
"""A row shorter than this fraction of the median row was probably never trained."""
NEAR_ZERO_SHARE_MAX = 0.01
"""Models ship with some unused reserved tokens; more of them than this share is damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something odd: ``subject rule; remedy``. It stops the run where ``blocks``."""

    subject: str
    rule: str
    remedy: str
    blocks: bool

    def __str__(self) -> str:
        return f"{self.subject} {self.rule}; {self.remedy}."


def check(folder: Path | str, *, architecture: Architecture, tokenizer: Tokenizer) -> list[Finding]:
    """Everything odd about config, tokenizer and weights; reads each tensor once.

    A folder whose tensors do not fit its config.json raises ModelError.
    """
    folder = Path(folder)
    return [
        *check_tokens(
            architecture, tokenizer=tokenizer, ends=_ends(folder, architecture=architecture)
        ),
        *_check_weights(folder, architecture=architecture, num_tokens=tokenizer.vocab_size),
    ]


def require_healthy(findings: Sequence[Finding], *, folder: Path, allow_unhealthy: bool) -> None:
    """Raise ModelError with all findings that block, unless they are allowed by name."""
    blocking = [finding for finding in findings if finding.blocks]
    if blocking and not allow_unhealthy:
        lines = "\n".join(f"  {n}. {finding}" for n, finding in enumerate(blocking, start=1))
        raise ModelError(
            f"{folder} is not healthy (model.allow_unhealthy=true trains it anyway):\n{lines}"
        )


def _ends(folder: Path, *, architecture: Architecture) -> tuple[int, ...]:
    """The tokens at which the model stops: all that are stated, else the family's own."""
    own = () if architecture.eos_id is None else (architecture.eos_id,)
    return end_ids(folder) or own


def check_tokens(
    architecture: Architecture, *, tokenizer: Tokenizer, ends: Sequence[int]
) -> Iterator[Finding]:
    """The tokenizer against the model's vocabulary, and the special tokens; ``ends``: all those at
    which the model stops."""
    if tokenizer.vocab_size > architecture.vocab_size:
        yield Finding(
            subject=f"tokenizer.vocab_size={tokenizer.vocab_size}",
            rule=f"exceeds the model's vocab_size={architecture.vocab_size}",
            remedy="use the tokenizer of this model, or resize its embeddings",
            blocks=True,
        )
    if tokenizer.eos_id is None:
        yield Finding(
            subject="tokenizer.eos_id",
            rule="is not stated, so documents cannot be told apart",
            remedy="set eos_token in tokenizer_config.json",
            blocks=True,
        )
    elif tokenizer.eos_id == tokenizer.pad_id:
        yield Finding(
            subject=f"tokenizer.pad_id={tokenizer.pad_id}",
            rule="equals eos_id",
            remedy="mind it in tools that mask padding out of the loss (megacpt does not)",
            blocks=False,
        )
    if ends and tokenizer.eos_id is not None and tokenizer.eos_id not in ends:
        yield Finding(
            subject=f"tokenizer.eos_id={tokenizer.eos_id}",
            rule=f"differs from config.json's eos_token_id={' or '.join(map(str, ends))}",
            remedy="check that tokenizer and model belong together",
            blocks=False,
        )


def _check_weights(
    folder: Path, *, architecture: Architecture, num_tokens: int
) -> Iterator[Finding]:
    tensors = HfTensors.of_folder(folder, architecture=architecture)
    tables = {table_name(architecture, role=role) for role in (Role.embedding, Role.head)}
    dtypes: set[torch.dtype] = set()
    for name in tensors.places:
        tensor = tensors.read(name)
        dtypes.add(tensor.dtype)
        yield from _check_finite(name, tensor=tensor)
        if name in tables:
            yield from _check_rows(name, tensor_VD=tensor, num_tokens=num_tokens)
    if len(dtypes) > 1:
        yield Finding(
            subject=f"{folder}: types {', '.join(sorted(str(d) for d in dtypes))}",
            rule="are mixed",
            remedy="all become precision.dtype; expect an export of one type",
            blocks=False,
        )


def _check_finite(name: str, *, tensor: torch.Tensor) -> Iterator[Finding]:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        yield Finding(
            subject=f"{name}: {bad} of {tensor.numel()} values",
            rule="are NaN or infinite",
            remedy="download the model again",
            blocks=True,
        )


def _check_rows(name: str, *, tensor_VD: torch.Tensor, num_tokens: int) -> Iterator[Finding]:
    """Rows past the tokenizer's ids are filler and may be anything."""
    norms_V = torch.linalg.vector_norm(tensor_VD[:num_tokens], dim=1, dtype=torch.float32)
    is_small_V = norms_V <= NEAR_ZERO * norms_V.median()
    small = torch.nonzero(is_small_V).flatten().tolist()
    if small:
        yield Finding(
            subject=f"{name}: {_rows(small)}",
            rule=f"are near zero (below {NEAR_ZERO} of the median row)",
            remedy="give these tokens a mean embedding if your text uses them",
            blocks=len(small) > NEAR_ZERO_SHARE_MAX * num_tokens,
        )
    copies = _copies(tensor_VD[:num_tokens][~is_small_V])
    if copies:
        numbers = torch.nonzero(~is_small_V).flatten()[copies].tolist()
        yield Finding(
            subject=f"{name}: {_rows(numbers)}",
            rule="are exact copies of others, so they were probably never trained",
            remedy="expect the model to know nothing of these tokens yet if your text uses them",
            blocks=False,
        )


def _rows(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{len(numbers)} rows ({shown})"


def _copies(rows_VD: torch.Tensor) -> list[int]:
    """The rows that are equal to another one."""
    content_VB = rows_VD.contiguous().view(torch.uint8).numpy()
    # Digests instead of rows, which would be a second table in memory.
    digests = [hashlib.blake2b(row, digest_size=16).digest() for row in content_VB]
    count = Counter(digests)
    return [number for number, digest in enumerate(digests) if count[digest] > 1]
