# SPDX-License-Identifier: Apache-2.0
"""Whether a run's training text was cleaned of its suites' items, by what its shards say."""

from __future__ import annotations

from collections.abc import Mapping

from megacpt.config.sections import EvaluateConfig, SourceConfig
from megacpt.corpus.required import lacking
from megacpt.shards.manifest import curated_of


def not_decontaminated(
    evaluate: EvaluateConfig, *, sources: Mapping[str, SourceConfig]
) -> dict[str, list[str]]:
    """Suite -> the sources of which nothing says so, under its name or its task's; generated text
    holds no items."""
    curated = {n: curated_of(source.prefix) for n, source in sources.items() if source.prefix}
    return {
        suite: [
            source
            for source, origins in curated.items()
            if all(
                lacking(f"decontaminated:{name}", origins=origins)
                for name in (suite, benchmark.task)
            )
        ]
        for suite, benchmark in evaluate.benchmarks.items()
    }
