# SPDX-License-Identifier: Apache-2.0
"""The settings of ``megacpt curate``: a file, and words that are laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megacpt.config.limits import beyond_limits
from megacpt.config.schema import to_config
from megacpt.config.yaml_file import load_texts, nested
from megacpt.corpus.documents import OnError
from megacpt.corpus.formats import FileFormat
from megacpt.curate.deduplicate.settings import DeduplicateConfig
from megacpt.curate.distributed.settings import JobsConfig
from megacpt.curate.parts import Form
from megacpt.curate.sources import Kind
from megacpt.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class TextConfig:
    files: str
    """Files, folders and patterns, separated by commas: all that ``megacpt tokenize`` reads."""
    kind: Kind = Kind.domain
    """``general`` is replayed beside the domain; of ``heldout`` nothing may be in the others."""
    key: str = "text"
    """Field or column of the text."""
    format: FileFormat | None = None
    """Of all its files, whatever their names."""


@dataclass(kw_only=True, slots=True)
class CurateConfig:
    output: str
    """A new folder: a folder for each source, and curation.json, the account of it all."""
    sources: dict[str, TextConfig] = field(default_factory=dict)
    form: Form = Form.jsonl_zst
    """Of what is written."""
    on_error: OnError = OnError.stop
    """What to do with a line that is no document."""
    workers: int = 0
    """Threads; 0: one for each core."""
    deduplicate: DeduplicateConfig | None = None
    """Leave out documents that are, or nearly are, others."""
    slurm: JobsConfig | None = None
    """Have it done by jobs on a cluster."""


STEPS = ("deduplicate",)
"""Sections that ask for a step, in the order in which they are done."""


def read_config(path: Path | None, *, overrides: Sequence[str] = ()) -> CurateConfig:
    """ConfigError lists every unknown key and unusable value."""
    tree = nested(load_texts(path), path=path) if path is not None else {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word} is no setting; write KEY=VALUE, as in output=data/clean.")
        _put(tree, keys=key.split("."), value=None if value == "null" else value, word=word)
    config = to_config(tree, schema=CurateConfig, where=lambda key: str(path or ""))
    if broken := list(beyond_limits(config)):
        raise ConfigError(broken)
    return config


def _put(tree: dict[str, Any], *, keys: Sequence[str], value: Any, word: str) -> None:
    *above, last = keys
    for key in above:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree[last] = value


def sections(config: CurateConfig) -> Mapping[str, Any]:
    """Of the steps that are asked for."""
    asked = {name: getattr(config, name) for name in STEPS}
    return {name: section for name, section in asked.items() if section is not None}
