# SPDX-License-Identifier: Apache-2.0
"""Two models by what transformers computes of them, and the first layer where they part.

Shapes: B samples, S tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from megacpt.config.sections import Dtype
from megacpt.convert.by_transformers import load_transformers
from megacpt.convert.conversion import Conversion, Form, convert
from megacpt.convert.sources import SourceModel
from megacpt.errors import ModelError

SAMPLES, TOKENS = 2, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """What both models have computed at one place."""

    name: str
    difference: float
    """Largest of any element."""
    largest: float
    """Largest magnitude in the first model."""


def compare_logits(a: SourceModel, *, b: SourceModel, scratch: Path) -> list[LayerDifference]:
    """Embedding, each layer, logits: in this order, in fp32, one model in memory at a time.

    ``scratch``: where a checkpoint is written as a Hugging Face folder for a while. ``ModelError``
    where the models have other sizes.
    """
    _require_one_shape(a, b=b)
    generator = torch.Generator().manual_seed(1)
    tokens_BS = torch.randint(a.architecture.vocab_size, (SAMPLES, TOKENS), generator=generator)
    ours, theirs = (_states(source, tokens_BS=tokens_BS, scratch=scratch) for source in (a, b))
    layers = [f"layer {n}" for n in range(len(ours) - 3)]
    names = ["embedding", *layers, f"layer {len(layers)} and final norm", "logits"]
    return [
        LayerDifference(
            name=name,
            difference=float((one - other).abs().max()),
            largest=float(one.abs().max()),
        )
        for name, one, other in zip(names, ours, theirs, strict=True)
    ]


def _require_one_shape(a: SourceModel, *, b: SourceModel) -> None:
    for size in ("num_layers", "hidden_size", "vocab_size"):
        ours, theirs = (getattr(source.architecture, size) for source in (a, b))
        if ours != theirs:
            raise ModelError(
                f"{a.folder} has {size}={ours}, {b.folder} has {theirs}: their logits cannot be "
                "compared; leave --logits out."
            )


def first_apart(layers: Sequence[LayerDifference], *, tolerance: float) -> LayerDifference | None:
    return next((layer for layer in layers if not layer.difference <= tolerance), None)


def _states(source: SourceModel, *, tokens_BS: torch.Tensor, scratch: Path) -> list[torch.Tensor]:
    with _as_hf(source, scratch=scratch) as folder:
        model = load_transformers(folder, device=torch.device("cpu"))
    with torch.no_grad():
        output = model(tokens_BS, output_hidden_states=True)
    return [*output.hidden_states, output.logits]


@contextmanager
def _as_hf(source: SourceModel, *, scratch: Path) -> Iterator[Path]:
    if source.folder == source.described_by:
        yield source.folder
        return
    with TemporaryDirectory(dir=scratch, prefix=".verify.") as folder:
        conversion = Conversion(
            source=source, form=Form.hf, destination=Path(folder) / "hf", dtype=Dtype.fp32
        )
        convert(conversion)
        yield conversion.destination
