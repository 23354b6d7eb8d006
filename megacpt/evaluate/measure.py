# SPDX-License-Identifier: Apache-2.0
"""Measurements of a model in training: held-out losses, generations from fixed prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megacpt.evaluate.benchmarks.suites import Suites
from megacpt.evaluate.generate import generate
from megacpt.evaluate.heldout import Losses, measure_all
from megacpt.samples.heldout import HeldoutSet
from megacpt.tokenizer import Tokenizer

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """All methods are collective calls; the results are the same on every rank."""

    heldout: Mapping[str, HeldoutSet]
    prompts: Sequence[str]
    tokenizer: Tokenizer
    micro_batch_size: int
    sequence_length: int
    max_new_tokens: int
    suites: Suites
    """Those that are measured in training."""
    repetition_penalty: float = 1.0

    def losses(self, chunks: list[Any]) -> dict[str, Losses]:
        """Loss, perplexity and number of tokens of every held-out set."""
        return measure_all(
            chunks,
            sets=self.heldout,
            micro_batch_size=self.micro_batch_size,
            device=next(chunks[0].parameters()).device,
        )

    def generations(self, chunks: list[Any]) -> list[dict[str, str]]:
        return generate(
            chunks,
            prompts=self.prompts,
            tokenizer=self.tokenizer,
            max_new_tokens=self.max_new_tokens,
            repetition_penalty=self.repetition_penalty,
            sequence_length=self.sequence_length,
            device=next(chunks[0].parameters()).device,
        )

    def benchmarks(self, chunks: list[Any], *, step: int) -> Record:
        """Those that are due after ``step``."""
        label = f"step-{step}" if step else "base"
        measured = self.suites.measure(chunks, label=label, names=self.suites.due(step))
        found = {name: asdict(each) for name, each in measured.items()}
        return {"benchmarks": found} if found else {}

    def base_record(self, chunks: list[Any]) -> Record:
        """The record of step 0, for weights that nothing has been trained on yet."""
        record: Record = {"step": 0, "heldout": self.losses(chunks)}
        record |= self.benchmarks(chunks, step=0)
        return record | ({"generations": self.generations(chunks)} if self.prompts else {})
