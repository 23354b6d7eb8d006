# SPDX-License-Identifier: Apache-2.0
"""What a run makes of the conversations among its sources: refused, or said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from megacpt.config.sections import Objective, RunConfig
from megacpt.errors import Violation
from megacpt.shards.manifest import Manifest, read_shard_manifest
from megacpt.shards.packing import PackedShard
from megacpt.shards.reader import IndexedShard


def refused(config: RunConfig) -> Iterator[Violation]:
    """No source to learn replies of, or a conversation that no sample holds."""
    if config.objective is not Objective.sft:
        return
    chats = conversations(config)
    if not chats:
        yield Violation(
            path="objective",
            value=Objective.sft.value,
            rule="learns what the assistant says, but no source has a mask of it",
            remedy="write one with megacpt tokenize --chat, or use objective=pretraining",
        )
    yield from _several_templates(chats)
    length = config.data.sequence_length
    for name in chats:
        prefix = str(config.data.sources[name].prefix)
        packed = PackedShard.open(prefix, sequence_length=length)
        if packed.summary.cut:
            longest = int(IndexedShard(prefix).lengths.max()) - 1
            yield Violation(
                path="data.sequence_length",
                value=length,
                rule=f"is less than {packed.summary.cut:,} conversations of data.sources.{name} "
                f"take (the longest {longest:,}), and replies are learned from all before them",
                remedy=f"use {longest}, or tokenize them with --max-tokens {length + 1} and "
                "--on-long skip or truncate",
            )


def _several_templates(chats: Mapping[str, Manifest]) -> Iterator[Violation]:
    """The model is to be asked in one way."""
    names = list(chats)
    for name in names[1:]:
        if chats[name].chat_template != chats[names[0]].chat_template:
            yield Violation(
                path=f"data.sources.{name}.prefix",
                value=chats[name].name,
                rule=f"was written with another chat template than data.sources.{names[0]}",
                remedy="tokenize both with one --chat-template",
            )


def chat_template_of(config: RunConfig) -> str | None:
    """That of the replies which are learned; None where none are."""
    if config.objective is not Objective.sft:
        return None
    return next((m.chat_template for m in conversations(config).values()), None)


def odd(config: RunConfig) -> Iterator[str]:
    """Settings that are possible and seldom meant."""
    chats = conversations(config)
    if config.objective is Objective.pretraining:
        for name in chats:
            yield (
                f"data.sources.{name} holds conversations, and all of them is learned, what the "
                "user says as well; objective=sft learns the replies alone."
            )
    elif chats and not config.data.document_mask:
        yield (
            "conversations in one sample see each other; data.document_mask=true sets them apart."
        )


def conversations(config: RunConfig) -> Mapping[str, Manifest]:
    """The sources that have a mask, by their manifests."""
    found = {
        name: read_shard_manifest(source.prefix)
        for name, source in config.data.sources.items()
        if source.prefix
    }
    return {name: m for name, m in found.items() if m is not None and m.mask_sha256}
