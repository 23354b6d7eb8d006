# SPDX-License-Identifier: Apache-2.0
"""A run's shards and prompts, opened before any rank does: what a rank would refuse, plan refuses.

Text that is generated is left out: it is not written yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

from megacpt.cluster import conversations
from megacpt.config.paths import source_shards
from megacpt.config.sections import MissingPolicy, Objective, RunConfig, UsefulnessConfig
from megacpt.corpus.required import lacking
from megacpt.errors import ConfigError, DataError, Violation
from megacpt.evaluate.usefulness.questions import read_questions
from megacpt.evaluate.usefulness.references import require_references
from megacpt.samples.training_data import TrainingData
from megacpt.shards.inspect import SPAN, spans_to_read
from megacpt.shards.manifest import curated_of
from megacpt.shards.same import Content
from megacpt.text import listed
from megacpt.tokenizer import Tokenizer
from megacpt.tokenizer.backend import EncodeError

LOOKED_AT = 4 * SPAN
"""Tokens of a shard that are looked at, where no manifest says that the model knows its ids."""

Shards = Mapping[str, Content]
"""Setting -> what it names."""


def open_data(
    config: RunConfig, *, vocab_size: int, record: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Refuse what no rank could go on with; return what is odd, in sentences.

    ``record``: of the data, in the checkpoint that the run goes on from.
    """
    named = {f"data.sources.{n}.prefix": s.prefix for n, s in config.data.sources.items()}
    held = {f"evaluate.heldout.{n}.prefix": h.prefix for n, h in config.evaluate.heldout.items()}
    sources, heldout = (
        {path: Content.open(p, vocab_size=vocab_size) for path, p in prefixes.items() if p}
        for prefixes in (named, held)
    )
    for content in (*sources.values(), *heldout.values()):
        _require_ids(content, vocab_size=vocab_size)
    lacks = list(_lacking(config))
    refused = list(lacks) if config.data.on_missing is MissingPolicy.refuse else []
    refused += conversations.refused(config)
    if broken := [*_repeated(sources), *_trained_on(heldout, sources=sources), *refused]:
        raise ConfigError(broken)
    if len(sources) == len(named):
        TrainingData.open(
            config.data,
            seed=config.seed,
            shards=source_shards(config),
            vocab_size=vocab_size,
            steps=config.schedule.steps,
            record=record,
            replies_only=config.objective is Objective.sft,
        )
    return (
        *_partly_trained_on(heldout, sources=sources),
        *_same_sets(heldout),
        *(f"{lack}." for lack in lacks),
        *conversations.odd(config),
    )


def _lacking(config: RunConfig) -> Iterator[Violation]:
    """Sources whose text has not been through what is demanded of it."""
    data = config.data
    for name, source in data.sources.items():
        own = source.require is not None
        key, text = (f"data.sources.{name}" if own else "data"), source.require or data.require
        if missing := lacking(text, origins=curated_of(source.prefix)):
            yield Violation(
                path=f"data.sources.{name}.prefix",
                value=source.prefix or "generated text",
                rule=f"has no record of being {listed(missing)}, as {key}.require demands",
                remedy="curate its text and tokenize what that writes (megacpt inspect --history "
                "shows what was done); or data.on_missing=warn",
            )


def check_questions(suites: Mapping[str, UsefulnessConfig]) -> None:
    """What is asked after training is known to be there, and whole, before."""
    for suite in suites.values():
        questions = read_questions(Path(suite.questions), limit=suite.limit)
        require_references(questions, config=suite)


def check_prompts(path: str | None, *, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Each prompt has ids, and those are the model's."""
    if path is None:
        return
    if not Path(path).is_file():
        raise DataError(
            f"evaluate.prompts={path} does not exist; give a text file, a prompt a line."
        )
    try:
        prompts = [p for p in Path(path).read_text(encoding="utf-8").splitlines() if p.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"evaluate.prompts={path} cannot be read as UTF-8 text: {error}; save it as UTF-8, a "
            "prompt a line."
        ) from error
    for prompt in prompts:
        if problem := _fault(prompt, tokenizer=tokenizer, vocab_size=vocab_size):
            raise DataError(
                f"evaluate.prompts={path}: the prompt {prompt[:60]!r} {problem}; change it or "
                "leave it out."
            )


def _fault(prompt: str, *, tokenizer: Tokenizer, vocab_size: int) -> str | None:
    try:
        ids = tokenizer.encode(prompt)
    except EncodeError as error:
        return f"cannot be encoded ({error})"
    if ids.size == 0:
        return "has no ids with the model's tokenizer"
    if ids.max() >= vocab_size:
        return f"has id {ids.max()}, but the model has {vocab_size} rows"
    return None


def _require_ids(content: Content, *, vocab_size: int) -> None:
    """DataError where the index, or an id of those looked at, cannot be used; a manifest vouches
    for both."""
    manifest, shard = content.manifest, content.shard
    if manifest is None or manifest.vocab_size > vocab_size:
        shard.check_index()
        for start, stop in spans_to_read(shard.num_tokens, sampled_tokens=LOOKED_AT):
            shard.ids(start, stop=stop)


def _repeated(sources: Shards) -> Iterator[Violation]:
    """A source named twice has other weights and epochs than the plan shows."""
    for (first, one), (second, other) in combinations(sources.items(), 2):
        if one.has_tokens_of(other):
            yield Violation(
                path=second,
                value=other.shard.prefix,
                rule=f"holds the same tokens as {first}={one.shard.prefix}",
                remedy="name them once, with both weights added up",
            )


def _trained_on(heldout: Shards, *, sources: Shards) -> Iterator[Violation]:
    """A held-out set that is also trained on measures nothing."""
    for (path, held), (source, trained) in product(heldout.items(), sources.items()):
        if held.has_tokens_of(trained):
            what = f"it holds the tokens of {trained.shard.prefix}"
        elif held.inputs and held.inputs.keys() <= trained.inputs.keys():
            what = f"{trained.shard.prefix} was made from {_first(held.inputs)}, too"
        else:
            continue
        yield Violation(
            path=path,
            value=held.shard.prefix,
            rule=f"is also trained on, as {source.removesuffix('.prefix')}: {what}",
            remedy="hold out other documents",
        )


def _partly_trained_on(heldout: Shards, *, sources: Shards) -> Iterator[str]:
    for (path, held), (source, trained) in product(heldout.items(), sources.items()):
        if shared := held.inputs.keys() & trained.inputs.keys():
            yield (
                f"{path}={held.shard.prefix} is in part trained on, as "
                f"{source.removesuffix('.prefix')}: both were made from {len(shared)} of the same "
                f"files, as {held.inputs[min(shared)]}; hold out other documents."
            )
        elif curated := held.raw.keys() & trained.raw.keys():
            yield (
                f"{path}={held.shard.prefix} and {source.removesuffix('.prefix')} go back to the "
                f"same files, as {held.raw[min(curated)]}, which were curated; see that no "
                "document is in both."
            )


def _same_sets(heldout: Shards) -> Iterator[str]:
    for (first, one), (second, other) in combinations(heldout.items(), 2):
        if one.has_tokens_of(other):
            yield f"{first} and {second} hold the same tokens: both sets have the same loss."


def _first(inputs: Mapping[tuple[str, str], str]) -> str:
    others = f" and {len(inputs) - 1} more files of it" if len(inputs) > 1 else ""
    return f"{next(iter(inputs.values()))}{others}"
