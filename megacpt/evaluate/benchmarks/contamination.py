# SPDX-License-Identifier: Apache-2.0
"""Whether a run's training text was cleaned of a suite's items, by what its shards say."""

from __future__ import annotations

from collections.abc import Mapping

from megacpt.config.sections import SourceConfig
from megacpt.corpus.required import lacking
from megacpt.shards.manifest import curated_of


def not_decontaminated(sources: Mapping[str, SourceConfig], *, names: tuple[str, ...]) -> list[str]:
    """The sources of which nothing says so, under any of the suite's ``names``; generated text
    holds no items."""
    return [
        name
        for name, source in sources.items()
        if source.prefix
        and all(
            lacking(f"decontaminated:{suite}", origins=curated_of(source.prefix)) for suite in names
        )
    ]
