# SPDX-License-Identifier: Apache-2.0
"""Small corpora and the shards made of them, for the tests of tokenization."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megacpt.shards.manifest import Manifest
from megacpt.shards.reader import IndexedShard
from megacpt.shards.tokenize import tokenize
from megacpt.tokenizer import load_tokenizer

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"
PIECE = 1 << 23
"""The smallest a file is cut into."""


def write_jsonl(path: Path, texts: Sequence[str], *, key: str = "text") -> Path:
    content = "".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def words(count: int, *, seed: int = 0) -> list[str]:
    """Documents of a few to some thousand words, one in twenty empty."""
    rng = random.Random(seed)
    lexicon = ["law", "of", "the", "land", "naïve", "日本", "3.14", "\n", "don't", "  ", "x_y"]
    lengths = (0 if rng.random() < 0.05 else rng.choice([3, 30, 300, 3000]) for _ in range(count))
    return [" ".join(rng.choices(lexicon, k=k)) for k in lengths]


def make(inputs: Sequence[Path | str], prefix: Path, **options: Any) -> Manifest:
    options = {"tokenizer": TINY, "workers": 1} | options
    manifest = tokenize(inputs, output_prefix=prefix, **options)
    assert manifest is not None
    return manifest


def decoded(prefix: Path) -> list[str]:
    """The documents' texts without the EOS that each must end with."""
    tokenizer, shard = load_tokenizer(TINY), IndexedShard(prefix)
    shown = [tokenizer.decode(shard.document(n)) for n in range(shard.num_documents)]
    assert all(text.endswith("<eos>") for text in shown)
    return [text.removesuffix("<eos>") for text in shown]


def shard_bytes(prefix: Path) -> dict[str, bytes]:
    """All files of a shard; the manifest without its name."""
    found = {kind: Path(f"{prefix}.{kind}").read_bytes() for kind in ("bin", "idx")}
    manifest = json.loads(Path(f"{prefix}.json").read_text()) | {"name": ""}
    found["json"] = json.dumps(manifest).encode()
    quarantine = Path(f"{prefix}.quarantine.jsonl")
    return found | ({"quarantine": quarantine.read_bytes()} if quarantine.exists() else {})
