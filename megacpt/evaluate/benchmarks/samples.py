# SPDX-License-Identifier: Apache-2.0
"""lm-eval's record of each item as the scores that are compared: id, cluster and one number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from megacpt.errors import DataError
from megacpt.evaluate.benchmarks.tasks import LoadedSuite, metric_of
from megacpt.evaluate.items import Item

CLUSTER_FIELDS = ("subject", "category", "subtask", "document_id", "passage_id", "context_id")
"""Fields of an item that say what it has in common with others."""
PER_WORD = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""An item has the log likelihood of its text and the words or bytes to divide it by."""
LIKELIHOODS = (*PER_WORD, "perplexity")
"""Of an item the log likelihood is known, of which more is better; of all items its exponential."""
Sample = Mapping[str, Any]


def items_of(suite: LoadedSuite, *, samples: Mapping[str, Sequence[Sample]]) -> tuple[Item, ...]:
    """``samples``: lm-eval's, by task. Where a task filters answers in several ways, the first
    counts. What all items have in common, such as the subject of a suite of one, makes no cluster
    of them."""
    items = tuple(_items(suite, samples=samples, metric=metric_of(suite)))
    if len({item.cluster for item in items}) > 1:
        return items
    return tuple(replace(item, cluster=item.id) for item in items)


def _items(
    suite: LoadedSuite, *, samples: Mapping[str, Sequence[Sample]], metric: str
) -> Iterator[Item]:
    seen: Counter[str] = Counter()
    for name, found in samples.items():
        is_better = suite.tasks[name].higher_is_better().get(metric, True)
        is_better = is_better or metric in LIKELIHOODS
        for sample in _of_first_filter(found):
            content = str(sample["doc_hash"])[:32]
            seen[content] += 1
            # The same content twice is two items, in the order of the data.
            item_id = content if seen[content] == 1 else f"{content}-{seen[content]}"
            cluster = _cluster(sample, task=name, is_group=suite.is_group) or item_id
            score = _score(sample.get(metric), metric=metric, suite=suite)
            yield Item(id=item_id, cluster=cluster, score=score if is_better else -score)


def _of_first_filter(samples: Sequence[Sample]) -> Iterator[Sample]:
    return (sample for sample in samples if sample["filter"] == samples[0]["filter"])


def _cluster(sample: Sample, *, task: str, is_group: bool) -> str | None:
    if is_group:
        return task
    doc = sample["doc"]
    named = (field for field in CLUSTER_FIELDS if doc.get(field) not in (None, ""))
    field = next(named, None)
    return None if field is None else f"{field}={doc[field]}"


def _score(value: Any, *, metric: str, suite: LoadedSuite) -> float:
    match value:
        case int() | float():
            return float(value)
        case [int() | float() as total, int() | float() as weight] if metric in PER_WORD:
            return float(total) / float(weight)
    raise DataError(
        f"{metric} of {suite.config.task} is of all items together and has no value of one, so "
        f"nothing can be compared item by item; set evaluate.benchmarks.{suite.name}.metric to "
        "another of the task's."
    )
