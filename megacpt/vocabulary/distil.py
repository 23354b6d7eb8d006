# SPDX-License-Identifier: Apache-2.0
"""Rows of new tokens from what the model makes of their old ones (Dobler et al., Token
Distillation, https://arxiv.org/abs/2505.20133, without its other baselines).

The model itself is the teacher: it reads a piece of text as old tokens, and again with the new
ones, of which only the rows may change. Where both have read the same text the last hidden states
should agree, from the first new token on: then so do the distributions of what comes next. The rows
of the head learn from the same pieces to predict the new tokens, where head and embedding are one
table together with it.

Shapes: B pieces, S tokens of the longest, H hidden, N new tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from megacpt.errors import DataError
from megacpt.families.weights import Role
from megacpt.vocabulary.bpe import Ids
from megacpt.vocabulary.growth import Growth

BEFORE, AFTER = 24, 40
"""Tokens of a piece around the new one that it was cut for."""
PIECES_PER_TOKEN = 64
"""More of the frequent ones would only repeat what the others teach."""
STEP_SIZE = 0.1
"""Of the first step, as a part of the rows' root mean square; Adam moves each value by about that.
Twenty tokens of SmolLM2 in 40 steps: hidden states from 0.101 of their mean square apart to 0.055;
with 0.03 to 0.075."""


class StepLoss(Protocol):
    """Told the number of a step and its loss."""

    def __call__(self, step: int, /, *, loss: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How long, and how much at once."""

    steps: int = 100
    pieces_per_step: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Some text around a new token, as new ids and as old ones."""

    ids: Ids
    old: Ids
    ends: Ids
    """Of each new id the place of its last old one."""
    first: int
    """Place of the first new token."""


def find_pieces(
    texts: Iterable[str],
    *,
    growth: Growth,
    encode: Callable[[str], Sequence[int]],
    start: Ids,
) -> list[TextPiece]:
    """Up to PIECES_PER_TOKEN for each new token; ``start`` is what documents begin with."""
    found: list[TextPiece] = []
    counts = dict.fromkeys((token.id for token in growth.tokens), 0)
    for text in texts:
        ids = np.asarray(encode(text))
        until = 0
        for place in np.flatnonzero(ids >= growth.first).tolist():
            number = int(ids[place])
            # A piece teaches all the new tokens that it holds.
            if place < until or counts[number] >= PIECES_PER_TOKEN:
                continue
            until = place + AFTER
            cut = (*start, *ids[max(place - BEFORE, 0) : until].tolist())
            if len(cut) < 2:
                continue  # Nothing stands before it and nothing behind.
            for other in {n for n in cut if n >= growth.first}:
                counts[other] += 1
            found.append(_piece(cut, growth=growth))
    return found


def _piece(ids: Ids, *, growth: Growth) -> TextPiece:
    parts = [growth.parts(number) for number in ids]
    return TextPiece(
        ids=ids,
        old=tuple(number for old in parts for number in old),
        ends=tuple((np.cumsum([len(old) for old in parts]) - 1).tolist()),
        first=next(n for n, number in enumerate(ids) if number >= growth.first),
    )


def distil(
    folder: Path,
    *,
    rows: Mapping[Role, torch.Tensor],
    first: int,
    pieces: Sequence[TextPiece],
    settings: Distillation,
    told: StepLoss = lambda step, loss: None,
) -> dict[Role, torch.Tensor]:
    """``rows`` of the folder's model, which is loaded whole and in fp32, after some steps."""
    if not pieces:
        raise DataError(
            "the text holds none of the new tokens, so nothing can be learned from it; give other "
            "files with --text, or use --init subtokens."
        )
    student = _Student(folder, rows=rows, first=first)
    learned = list(student.rows.values())
    scale = float(torch.cat([r.detach().flatten() for r in learned]).square().mean().sqrt())
    optimizer = torch.optim.Adam(learned, lr=STEP_SIZE * scale)
    batches = _batches(pieces, settings=settings)
    for step, batch in enumerate(itertools.islice(batches, settings.steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = STEP_SIZE * scale * (1 - (step - 1) / settings.steps)
        told(step, loss=student.backward(batch))
        optimizer.step()
    return {role: row.detach().to(rows[role].dtype) for role, row in student.rows.items()}


def _batches(pieces: Sequence[TextPiece], *, settings: Distillation) -> Iterator[list[TextPiece]]:
    """All pieces in a drawn order, again and again."""
    generator = np.random.default_rng(settings.seed)
    endless = (pieces[n] for _ in itertools.count() for n in generator.permutation(len(pieces)))
    while True:
        yield list(itertools.islice(endless, settings.pieces_per_step))


class _Student:
    """The model with the new rows in its tables, which get the only gradients."""

    def __init__(self, folder: Path, *, rows: Mapping[Role, torch.Tensor], first: int) -> None:
        self._model, self._first = _load(folder), first
        count = len(rows[Role.embedding])
        self._model.requires_grad_(False)
        size = max(first + count, self._model.get_input_embeddings().weight.shape[0])
        self._model.resize_token_embeddings(size, mean_resizing=False)
        self._span = slice(first, first + count)
        modules = {
            Role.embedding: self._model.get_input_embeddings(),
            Role.head: self._model.get_output_embeddings(),
        }
        self._tables = {role: modules[role].weight.requires_grad_() for role in rows}
        self.rows = {role: row.float().clone().requires_grad_() for role, row in rows.items()}

    def backward(self, batch: Sequence[TextPiece]) -> float:
        """The loss of a batch; its gradients are those of ``rows`` afterwards."""
        with torch.no_grad():
            for role, table in self._tables.items():
                table[self._span] = self.rows[role]
        loss = self._loss(batch)
        torch.autograd.backward(loss)
        for role, table in self._tables.items():
            assert table.grad is not None
            self.rows[role].grad = table.grad[self._span].clone()
            table.grad = None
        return float(loss.detach())

    def _loss(self, batch: Sequence[TextPiece]) -> torch.Tensor:
        ids_BS = _padded([piece.ids for piece in batch])
        ends_BS = _padded([piece.ends for piece in batch])
        with torch.no_grad():
            old = self._model.base_model(_padded([piece.old for piece in batch]))
        old_BSH = old.last_hidden_state
        taught_BSH = old_BSH.gather(1, ends_BS.unsqueeze(2).expand(-1, -1, old_BSH.shape[2]))
        states_BSH, logits_BSV = self._read(ids_BS, taught_BSH=taught_BSH)
        places_BS = torch.arange(ids_BS.shape[1])
        last_B1 = torch.tensor([len(piece.ids) for piece in batch]).unsqueeze(1)
        first_B1 = torch.tensor([piece.first for piece in batch]).unsqueeze(1)
        after_BS = (places_BS >= first_B1) & (places_BS < last_B1)
        apart = functional.mse_loss(states_BSH[after_BS], taught_BSH[after_BS])
        before_BS = (places_BS >= first_B1 - 1) & (places_BS < last_B1 - 1)
        said = functional.cross_entropy(logits_BSV[before_BS], ids_BS.roll(-1, dims=1)[before_BS])
        loss: torch.Tensor = apart / taught_BSH[after_BS].square().mean() + said
        return loss

    def _read(
        self, ids_BS: torch.Tensor, *, taught_BSH: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The states of the new tokens, and what the head makes of the taught ones: so it is the
        head alone that learns from the text, with whatever the family does to logits."""
        kept: list[torch.Tensor] = []

        def exchange(output: Any) -> Any:
            kept.append(output.last_hidden_state)
            output.last_hidden_state = taught_BSH
            return output

        handle = self._model.base_model.register_forward_hook(
            lambda _, __, output: exchange(output)
        )
        try:
            logits_BSV: torch.Tensor = self._model(ids_BS).logits
        finally:
            handle.remove()
        return kept[0], logits_BSV


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), local_files_only=True, dtype=torch.float32
    )
    return model.eval()


def _padded(rows: Sequence[Ids]) -> torch.Tensor:
    """Zeros behind the shorter ones, which causal attention never looks at."""
    longest = max(map(len, rows))
    return torch.tensor([row + (0,) * (longest - len(row)) for row in rows])
