# SPDX-License-Identifier: Apache-2.0
"""What is asked of a model: scores of some tokens of a text, or more of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megacpt.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """``labels`` are the tokens after the last ``len(labels)`` of ``inputs``."""

    inputs: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def first_scored(self) -> int:
        return len(self.inputs) - len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """``log_likelihood``: sum over the labels in nats. ``is_greedy``: each is the likeliest."""

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How texts are continued. ``temperature`` 0: always the likeliest token."""

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    """A text ends with the token that completes one of them."""
    end_ids: tuple[int, ...] = ()
    """Or with one of these tokens, which is left out."""
    temperature: float = 0.0
    seed: int = 0


def continued(context: Sequence[int], *, continuation: Sequence[int], max_length: int) -> Text:
    """The continuation is scored. What does not fit is cut from the left, as lm-eval does it."""
    if not context:
        raise DataError(
            "a continuation was asked for after no token at all; begin it with the tokenizer's "
            "first token."
        )
    if len(continuation) > max_length:
        raise DataError(
            f"a continuation of {len(continuation)} tokens is longer than the {max_length} that "
            "the model has positions for; leave the item out."
        )
    inputs = [*context, *continuation][-(max_length + 1) : -1] if continuation else context[-1:]
    return Text(inputs=tuple(inputs), labels=tuple(continuation))
