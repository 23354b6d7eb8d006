# SPDX-License-Identifier: Apache-2.0
"""Score texts on the sharded model, on any layout, with the same result on every rank.

Replicas share the rows. All take equally many, of one length, as experts and sharded weights are
exchanged between them in every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from megatron.core import parallel_state

from megacpt.evaluate.benchmarks.decoders import CachedDecoder, Decoder, PlainDecoder
from megacpt.evaluate.benchmarks.generate import Decode, continue_texts
from megacpt.evaluate.benchmarks.passes import Scored, padded_length, score_padded, score_row
from megacpt.evaluate.benchmarks.rows import SharedRow, padded_rows, shared_rows
from megacpt.evaluate.benchmarks.text import Score, Text, Writing
from megacpt.evaluate.heldout import evaluating
from megacpt.model.adapters.linear import unchanging_norms
from megacpt.model.quantise.linear import unchanging_weights
from megacpt.model.viewed import can_be_viewed

TOKENS_A_PASS = 4096
"""More make no product of matrices faster, and take memory."""
TEXTS_AT_ONCE = 64
"""Texts that a replica continues together."""
PLACES_AT_ONCE = 2**15
"""Tokens whose keys and values a replica keeps."""
T = TypeVar("T")
Passed = Callable[[int, int], None]
"""Told how much is done of how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """All methods are collective calls."""

    chunks: Sequence[Any]
    device: torch.device
    max_length: int
    """Positions the model has."""
    takes_branches: bool
    """Else texts share nothing and no keys are kept: slower, and right for any model."""
    decode: Decode

    @classmethod
    def over(cls, chunks: Sequence[Any], *, max_length: int, decode: Decode) -> Engine:
        return cls(
            chunks=chunks,
            device=next(chunks[0].parameters()).device,
            max_length=max_length,
            takes_branches=can_be_viewed(chunks),
            decode=decode,
        )

    def score(
        self,
        texts: Sequence[Text],
        *,
        tokens_a_pass: int = TOKENS_A_PASS,
        passed: Passed = lambda done, of: None,
    ) -> list[Score]:
        """One of each text, in their order."""
        totals_N2 = torch.zeros(len(texts), 2, dtype=torch.float64)
        with self.measuring():
            take = self._rows if self.takes_branches else self._padded
            for scored in take(texts, max_tokens=tokens_a_pass, passed=passed):
                if scored is not None and scored.scores_R2 is not None and _counts():
                    totals_N2.index_add_(0, scored.owners_R, scored.scores_R2.double().cpu())
        totals_N2 = totals_N2.to(self.device)
        torch.distributed.all_reduce(totals_N2)
        return [
            Score(log_likelihood=float(total), is_greedy=round(hits) == len(text.labels))
            for text, (total, hits) in zip(texts, totals_N2.tolist(), strict=True)
        ]

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        writing: Writing,
        passed: Passed = lambda done, of: None,
    ) -> list[list[int]]:
        """New tokens behind each prompt."""
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        found: dict[int, list[int]] = {}
        with self.measuring():
            for batch in _batches(order, prompts=prompts, new_tokens=writing.max_new_tokens):
                new = continue_texts(
                    [(n, prompts[n]) for n in batch],
                    writing=writing,
                    decoder=self._decoder(writing.max_new_tokens),
                    decode=self.decode,
                    device=self.device,
                )
                found |= dict(zip(batch, new, strict=True))
                passed(len(found), len(prompts))
        return [found[n] for n in range(len(prompts))]

    def _decoder(self, new_tokens: int) -> Decoder:
        if not self.takes_branches:
            return PlainDecoder(self.chunks, device=self.device)
        return CachedDecoder(self.chunks, device=self.device, new_tokens=new_tokens)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Evaluation mode, on weights that are quantised once."""
        with (
            evaluating(self.chunks),
            unchanging_weights(self.chunks),
            unchanging_norms(self.chunks),
        ):
            yield

    def _rows(
        self, texts: Sequence[Text], *, max_tokens: int, passed: Passed
    ) -> Iterator[Scored | None]:
        rows = shared_rows(texts, max_tokens=_fair(texts, max_tokens=max_tokens))

        def run(row: SharedRow, length: int) -> Scored:
            row.pad(length)
            return score_row(self.chunks, row=row, device=self.device)

        return self._shared(rows, length_of=lambda row: len(row.tokens_T), run=run, passed=passed)

    def _padded(
        self, texts: Sequence[Text], *, max_tokens: int, passed: Passed
    ) -> Iterator[Scored | None]:
        batches = padded_rows(texts, max_tokens=_fair(texts, max_tokens=max_tokens))

        def run(numbers: list[int], length: int) -> Scored:
            chosen = [texts[n] for n in numbers]
            return score_padded(
                self.chunks, texts=chosen, numbers=numbers, length=length, device=self.device
            )

        return self._shared(
            batches,
            length_of=lambda batch: len(texts[batch[0]].inputs),
            run=run,
            passed=passed,
        )

    def _shared(
        self,
        batches: Sequence[T],
        *,
        length_of: Callable[[T], int],
        run: Callable[[T, int], Scored],
        passed: Passed,
    ) -> Iterator[Scored | None]:
        """This replica's share; None where it only takes part in another's pass."""
        rank = parallel_state.get_data_parallel_rank()
        size = parallel_state.get_data_parallel_world_size()
        for start in range(0, len(batches), size):
            round_ = batches[start : start + size]
            length = padded_length(max(map(length_of, round_)), device=self.device)
            is_own = rank < len(round_)
            scored = run(round_[rank if is_own else 0], length)
            passed(start + len(round_), len(batches))
            yield scored if is_own else None


def _fair(texts: Sequence[Text], *, max_tokens: int) -> int:
    """No more than leaves each replica a share."""
    replicas = int(parallel_state.get_data_parallel_world_size())
    total = sum(len(text.inputs) for text in texts)
    return min(max_tokens, -(-total // replicas))


def _batches(
    order: Sequence[int], *, prompts: Sequence[Sequence[int]], new_tokens: int
) -> Iterator[list[int]]:
    """Of much the same length, longest first; as many as the cache of all replicas holds."""
    replicas = int(parallel_state.get_data_parallel_world_size())
    start = 0
    while start < len(order):
        places = len(prompts[order[start]]) + new_tokens
        size = replicas * max(1, min(TEXTS_AT_ONCE, PLACES_AT_ONCE // places))
        yield list(order[start : start + size])
        start += size


def _counts() -> bool:
    """Tensor-parallel ranks all have the same scores; those of context parallelism their own."""
    return bool(parallel_state.get_tensor_model_parallel_rank() == 0)
