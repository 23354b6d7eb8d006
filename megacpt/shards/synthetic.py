# SPDX-License-Identifier: Apache-2.0
"""Generated documents: sentences of a small grammar, so that a tiny model learns them in seconds.

Two topics share the grammar but not the words: training on one is visible in its loss and, as
forgetting, in the other's. The first sentence of a document names seed and number, so documents
of different seeds are never equal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megacpt.config.sections import SyntheticConfig
from megacpt.errors import ConfigError, Violation
from megacpt.files import write_text
from megacpt.shards.manifest import Manifest, read_shard_manifest
from megacpt.shards.tokenize import tokenize
from megacpt.tokenizer import Tokenizer

SENTENCES_PER_DOCUMENT = (4, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Words of the slots; each subject goes with its own verb and places, which can be learned."""

    subjects: dict[str, tuple[str, tuple[str, ...]]]
    qualities: tuple[str, ...]
    times: tuple[str, ...]


TOPICS = {
    "plant": Topic(
        subjects={
            "rose": ("opens", ("along the wall", "near the gate")),
            "fern": ("unfolds", ("under the oaks", "beside the stream")),
            "cactus": ("stores water", ("on the dry slope", "among the stones")),
            "lily": ("floats", ("on the pond", "in the still water")),
            "moss": ("spreads", ("over the roof", "between the roots")),
            "vine": ("climbs", ("up the trellis", "around the post")),
        },
        qualities=("young", "old", "pale", "tall"),
        times=("in spring", "after the rain", "at first light", "before the frost"),
    ),
    "kitchen": Topic(
        subjects={
            "kettle": ("whistles", ("on the stove", "beside the cups")),
            "knife": ("rests", ("in the drawer", "on the board")),
            "oven": ("glows", ("below the shelf", "next to the sink")),
            "bread": ("rises", ("in the bowl", "under the cloth")),
            "soup": ("simmers", ("in the copper pot", "over a low flame")),
            "spoon": ("hangs", ("from the hook", "above the counter")),
        },
        qualities=("small", "heavy", "clean", "warm"),
        times=("at noon", "every evening", "on Sundays", "while we talk"),
    ),
}


def documents(config: SyntheticConfig) -> Iterator[str]:
    """The texts; the first n are the same whatever ``config.documents`` is."""
    topic = _topic_of(config)
    for number in range(config.documents):
        rng = random.Random(f"{config.topic}/{config.seed}/{number}")
        heading = f"Notes {config.seed}, page {number} on {config.topic}s."
        count = rng.randint(*SENTENCES_PER_DOCUMENT)
        yield " ".join([heading, *(_sentence(topic, rng=rng) for _ in range(count))])


def _topic_of(config: SyntheticConfig) -> Topic:
    if config.topic in TOPICS:
        return TOPICS[config.topic]
    remedy = f"use {' or '.join(TOPICS)}"
    raise ConfigError(
        [Violation(path="synthetic.topic", value=config.topic, rule="is unknown", remedy=remedy)]
    )


def _sentence(topic: Topic, *, rng: random.Random) -> str:
    subject, (verb, places) = rng.choice(list(topic.subjects.items()))
    quality, place, time = (rng.choice(words) for words in (topic.qualities, places, topic.times))
    return f"The {quality} {subject} {verb} {place} {time}."


def write_jsonl(path: Path | str, *, config: SyntheticConfig) -> None:
    """One JSON object a line, the text under ``text``."""
    write_text(Path(path), text=_as_jsonl(config))


def _as_jsonl(config: SyntheticConfig) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in documents(config))


def ensure_shard(prefix: Path | str, *, config: SyntheticConfig, tokenizer: Tokenizer) -> Manifest:
    """Write PREFIX.jsonl and its token shard, unless they lie there already."""
    source = Path(f"{prefix}.jsonl")
    manifest = read_shard_manifest(prefix)
    if (
        manifest is not None
        and manifest.tokenizer_fingerprint == tokenizer.fingerprint
        and source.is_file()
        and source.read_text(encoding="utf-8") == _as_jsonl(config)
    ):
        return manifest
    write_jsonl(source, config=config)
    written = tokenize([source], tokenizer=tokenizer, output_prefix=prefix, workers=1)
    assert written is not None, "only a task returns nothing"
    return written
