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
from megacpt.curate.balance.settings import BalanceConfig
from megacpt.curate.decontaminate.settings import DecontaminateConfig
from megacpt.curate.deduplicate.settings import DeduplicateConfig
from megacpt.curate.distributed.settings import JobsConfig
from megacpt.curate.filters.settings import FilterConfig
from megacpt.curate.parts import PartForm
from megacpt.curate.rewrite.settings import RewriteConfig
from megacpt.curate.rewrite.shapes import Shape
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
    shape: Shape | None = None
    """Of records that hold no text of their own, such as questions and answers."""
    format: FileFormat | None = None
    """Of all its files, whatever their names."""


@dataclass(kw_only=True, slots=True)
class CurateConfig:
    output: str
    """A new folder: a folder for each source, and curation.json, the account of it all."""
    sources: dict[str, TextConfig] = field(default_factory=dict)
    form: PartForm = PartForm.jsonl_zst
    """Of what is written."""
    on_error: OnError = OnError.stop
    """What to do with a line that is no document."""
    workers: int = 0
    """Threads; 0: one for each core."""
    filter: FilterConfig | None = None
    """Leave out documents that are not worth training on."""
    deduplicate: DeduplicateConfig | None = None
    """Leave out documents that are, or nearly are, others."""
    decontaminate: DecontaminateConfig | None = None
    """Leave out documents that hold what benchmarks ask."""
    rewrite: RewriteConfig | None = None
    """Make flowing text of records, and move the middle of code to its end."""
    balance: BalanceConfig | None = None
    """Take of each source what a run needs, and write its blend."""
    slurm: JobsConfig | None = None
    """Have it done by jobs on a cluster."""


STEPS = ("filter", "deduplicate", "decontaminate", "rewrite", "balance")
"""Sections that ask for a step, in the order in which they are done."""


def read_config(path: Path | None, *, overrides: Sequence[str] = ()) -> CurateConfig:
    """ConfigError lists every unknown key and unusable value."""
    tree = nested(load_texts(path), path=path) if path is not None else {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word} is no setting; write KEY=VALUE, as in output=data/clean.")
        # Two values are no texts: nothing, and a section as it is by default.
        spelt = dict[str, Any]({"null": None, "{}": {}}).get(value, value)
        _put(tree, keys=key.split("."), value=spelt, word=word)
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
