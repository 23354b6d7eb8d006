# SPDX-License-Identifier: Apache-2.0
"""One forward pass over texts: in a row that shares what they begin with, or in padded rows.

Shapes: B texts, S longest text, T tokens of a row, R scored tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from megacpt.evaluate.benchmarks.rows import SharedRow
from megacpt.evaluate.benchmarks.text import Text
from megacpt.model.forward import run_chosen
from megacpt.model.layers.attention import context_parallel
from megacpt.model.layers.attention.branches import Branch, Branches
from megacpt.model.layers.output_layer import Chosen
from megacpt.model.viewed import row_multiple, viewed

NOT_SCORED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """``owners_R``: number of the text each scored token is of. ``scores_R2``: as
    megacpt.model.layers.token_scores gives them, None off the last stage."""

    owners_R: torch.Tensor
    scores_R2: torch.Tensor | None


def score_row(chunks: Sequence[Any], *, row: SharedRow, device: torch.device) -> Scored:
    """Every text of the row sees what is its own alone."""
    view = branches_of(row, device=device)
    with viewed(chunks, view=view):
        scores_R2 = run_chosen(
            chunks,
            tokens_BS=torch.tensor([row.tokens_T], device=device),
            positions_BS=view.positions_T.unsqueeze(0),
            chosen=Chosen(
                places_R=torch.tensor(row.places_R, dtype=torch.int64, device=device),
                labels_R=torch.tensor(row.labels_R, dtype=torch.int64, device=device),
            ),
        )
    return Scored(owners_R=torch.tensor(row.owners_R, dtype=torch.int64), scores_R2=scores_R2)


def branches_of(row: SharedRow, *, device: torch.device) -> Branches:
    """What attention is told of the row."""
    return Branches(
        branches=[Branch(path=tuple(slice(*piece) for piece in path)) for path in row.paths_N],
        positions_T=torch.tensor(row.positions_T, device=device),
    )


def score_padded(
    chunks: Sequence[Any],
    *,
    texts: Sequence[Text],
    numbers: Sequence[int],
    length: int,
    device: torch.device,
) -> Scored:
    """Each rank of context parallelism scores its own part."""
    labels_BS = torch.full((len(texts), length), NOT_SCORED)
    for n, text in enumerate(texts):
        labels_BS[n, text.first_scored : len(text.inputs)] = torch.tensor(text.labels)
    text_R, scores_R2 = run_padded(
        chunks,
        texts=[text.inputs for text in texts],
        is_chosen_BS=labels_BS != NOT_SCORED,
        labels_BS=labels_BS,
        device=device,
    )
    return Scored(owners_R=torch.tensor(numbers, dtype=torch.int64)[text_R], scores_R2=scores_R2)


def run_padded(
    chunks: Sequence[Any],
    *,
    texts: Sequence[Sequence[int]],
    is_chosen_BS: torch.Tensor,
    labels_BS: torch.Tensor | None,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Which text each chosen token of this rank's part is of, and scores of its labels or logits,
    None off the last stage. Texts are filled up on the right to the S of ``is_chosen_BS``, which no
    token before it can see."""
    tokens_BS = torch.zeros_like(is_chosen_BS, dtype=torch.int64)
    for n, text in enumerate(texts):
        tokens_BS[n, : len(text)] = torch.tensor(text)
    positions_BS = torch.arange(tokens_BS.shape[1]).repeat(len(texts), 1)
    text_R, place_R = _own(is_chosen_BS).nonzero(as_tuple=True)
    labels_R = None if labels_BS is None else _own(labels_BS)[text_R, place_R].to(device)
    found = run_chosen(
        chunks,
        tokens_BS=_own(tokens_BS).to(device),
        positions_BS=_own(positions_BS).to(device),
        chosen=Chosen(places_R=(place_R * len(texts) + text_R).to(device), labels_R=labels_R),
    )
    return text_R, found


def _own(sample_BS: torch.Tensor) -> torch.Tensor:
    return context_parallel.own_part(sample_BS, dim=1)


def padded_length(longest: int, *, device: torch.device) -> int:
    """The least length that all ranks' parts of a row can have."""
    ranks = context_parallel.size()
    unit = row_multiple(device) if ranks == 1 else ranks * math.lcm(2, row_multiple(device))
    return -(-longest // unit) * unit
