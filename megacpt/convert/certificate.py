# SPDX-License-Identifier: Apache-2.0
"""Proof of an export: the native model's logits beside those of transformers, and file hashes.

Shapes: S tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from megatron.core.utils import unwrap_model

from megacpt.convert.by_transformers import load_transformers
from megacpt.families.architecture import Architecture
from megacpt.files import encoded
from megacpt.tokenizer import Tokenizer

CERTIFICATE = "certificate.json"
PACKAGES = ("torch", "transformers", "megatron-core", "safetensors")
TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest logit where that is above 1."""
PROMPTS = (
    "The history of the town begins at the ford, where two old roads met the river.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "In the beginning God created the heaven and the earth. And the earth was without form,",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144,",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptResult:
    """One prompt, all its positions."""

    text: str
    tokens: int
    max_abs_difference: float
    max_abs_logit: float
    argmax_agreement: float
    """Fraction of the positions where both models would say the same next token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What certificate.json holds. Both models compute in float32."""

    certified: bool
    base_model: str | None
    """What was trained: ORG/NAME@COMMIT of the hub, or a folder; None where that is not known."""
    max_abs_difference: float
    max_abs_logit: float
    argmax_agreement: float
    tolerance: float
    prompts: list[PromptResult]
    versions: dict[str, str]
    files: dict[str, str]
    """sha256 of every other file of the folder."""


def write_certificate(
    chunks: Sequence[Any],
    *,
    architecture: Architecture,
    folder: Path,
    tokenizer: Tokenizer,
    prompts: Sequence[str] = PROMPTS,
    base_model: str | None = None,
    load: Callable[..., Any] = load_transformers,
    packages: Sequence[str] = PACKAGES,
    tolerance: float = TOLERANCE,
) -> Certificate:
    """Compare chunks at tp = pp = 1 with what transformers loads from ``folder``, or ``load``;
    write the file.

    A difference above the tolerance is a defect of the export and raises RuntimeError.
    """
    results = compare(
        chunks,
        architecture=architecture,
        folder=folder,
        tokenizer=tokenizer,
        prompts=prompts,
        load=load,
    )
    certificate = certified(
        results, folder=folder, base_model=base_model, packages=packages, tolerance=tolerance
    )
    write(certificate, folder=folder)
    return certificate


def write(certificate: Certificate, *, folder: Path) -> None:
    """Into the folder that it speaks of."""
    text = json.dumps(asdict(certificate), indent=2, ensure_ascii=False)
    (folder / CERTIFICATE).write_bytes(encoded(text + "\n"))
    if not certificate.certified:
        raise RuntimeError(
            f"{folder}: logits of the exported model differ from the native ones by "
            f"{certificate.max_abs_difference:.2e} "
            f"(allowed: {certificate.tolerance} of {certificate.max_abs_logit:.1f})"
        )


def compare(
    chunks: Sequence[Any],
    *,
    architecture: Architecture,
    folder: Path,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    load: Callable[..., Any] = load_transformers,
) -> list[PromptResult]:
    """Both models' logits on every prompt."""
    (native,) = unwrap_model(list(chunks))
    device = next(native.parameters()).device
    exported = load(folder, device=device)
    results = []
    with computing_in_float32(native):
        for text in prompts:
            tokens_1S = torch.tensor([[int(t) for t in tokenizer.encode(text)]], device=device)
            native_SV = native_logits(native, tokens_BS=tokens_1S)[0, :, : architecture.vocab_size]
            with torch.no_grad():
                exported_SV = exported(tokens_1S).logits[0]
            results.append(compare_prompt(text, native_SV=native_SV, exported_SV=exported_SV))
    return results


@torch.no_grad()
def native_logits(model: Any, *, tokens_BS: torch.Tensor) -> torch.Tensor:
    """Logits_BSV of a whole model."""
    positions_BS = torch.arange(tokens_BS.shape[1], device=tokens_BS.device).expand_as(tokens_BS)
    logits: torch.Tensor = model(tokens_BS, positions_BS, None)
    return logits


@contextmanager
def computing_in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Widen the weights for a while; bf16 -> fp32 -> bf16 gives back the same bits."""
    dtype, training = next(model.parameters()).dtype, model.training
    model.float().eval()
    try:
        yield
    finally:
        model.to(dtype).train(training)


def compare_prompt(
    text: str, *, native_SV: torch.Tensor, exported_SV: torch.Tensor
) -> PromptResult:
    agreeing = native_SV.argmax(dim=-1) == exported_SV.argmax(dim=-1)
    return PromptResult(
        text=text,
        tokens=len(native_SV),
        max_abs_difference=float((native_SV - exported_SV).abs().max()),
        max_abs_logit=float(exported_SV.abs().max()),
        argmax_agreement=float(agreeing.double().mean()),
    )


def certified(
    results: Sequence[PromptResult],
    *,
    folder: Path,
    base_model: str | None,
    packages: Sequence[str] = PACKAGES,
    tolerance: float = TOLERANCE,
) -> Certificate:
    """What they say of the folder, as it is now."""
    difference = max(result.max_abs_difference for result in results)
    largest = max(result.max_abs_logit for result in results)
    positions = sum(result.tokens for result in results)
    agreeing = sum(result.argmax_agreement * result.tokens for result in results)
    return Certificate(
        certified=difference <= tolerance * max(largest, 1.0),
        base_model=base_model,
        max_abs_difference=difference,
        max_abs_logit=largest,
        argmax_agreement=agreeing / positions,
        tolerance=tolerance,
        prompts=list(results),
        versions={p: version(p) for p in packages},
        files={
            path.relative_to(folder).as_posix(): _sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path != folder / CERTIFICATE
        },
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
