# SPDX-License-Identifier: Apache-2.0
"""What a run makes of the conversations among its sources: refused, or said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from megacpt.config.sections import HeldoutConfig, Objective, RunConfig, SourceConfig
from megacpt.errors import Violation
from megacpt.shards.manifest import Manifest, read_shard_manifest
from megacpt.shards.packing import PackedShard
from megacpt.shards.reader import IndexedShard

Chats: TypeAlias = Mapping[str, Manifest]
"""By the name of the source or held-out set."""


def refused(config: RunConfig) -> Iterator[Violation]:
    """No source to learn replies of, or a conversation that no sample holds."""
    if config.objective is not Objective.sft:
        return
    chats = _chats(config.data.sources)
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


def _several_templates(chats: Chats) -> Iterator[Violation]:
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
    return next((m.chat_template for m in _chats(config.data.sources).values()), None)


def odd(config: RunConfig) -> Iterator[str]:
    """Settings that are possible and seldom meant."""
    chats = _chats(config.data.sources)
    if config.objective is Objective.pretraining:
        for name in chats:
            yield (
                f"data.sources.{name} holds conversations, and all of them is learned, what the "
                "user says as well; objective=sft learns the replies alone."
            )
        return
    if chats and not config.data.document_mask:
        yield (
            "conversations in one sample see each other; data.document_mask=true sets them apart."
        )
    learned = {manifest.chat_template for manifest in chats.values()}
    for name, manifest in _chats(config.evaluate.heldout).items():
        if learned and manifest.chat_template not in learned:
            yield (
                f"evaluate.heldout.{name} was written with another chat template than the "
                "conversations that are learned, and asks in other words; tokenize it again "
                "with theirs (--chat-template)."
            )


def _chats(items: Mapping[str, SourceConfig | HeldoutConfig]) -> Chats:
    """Those that hold conversations, by their manifests."""
    found = {name: read_shard_manifest(i.prefix) for name, i in items.items() if i.prefix}
    return {name: m for name, m in found.items() if m is not None and m.is_chat}
