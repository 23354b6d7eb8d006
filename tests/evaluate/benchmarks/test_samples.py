# SPDX-License-Identifier: Apache-2.0
"""Records of lm-eval become items: ids of content, clusters of what is shared, more is better."""

from __future__ import annotations

from typing import Any

import pytest

from megacpt.config.sections import BenchmarkConfig
from megacpt.errors import DataError
from megacpt.evaluate.benchmarks.samples import items_of
from megacpt.evaluate.benchmarks.tasks import LoadedSuite, metric_of


class Task:
    def __init__(self, **directions: bool | None) -> None:
        self._directions = directions

    def higher_is_better(self) -> dict[str, bool | None]:
        return self._directions


def suite(metric: str | None = None, **tasks: Task) -> LoadedSuite:
    config = BenchmarkConfig(task="some", metric=metric)
    return LoadedSuite(name="mine", config=config, loaded={"tasks": tasks})


def sample(content: str, *, doc: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    return {"doc_hash": content, "doc": doc or {}, "filter": "none", **values}


def test_items_with_the_same_content_keep_their_order() -> None:
    found = items_of(
        suite(one=Task(acc=True)),
        samples={"one": [sample("x", acc=1), sample("y", acc=0), sample("x", acc=0)]},
    )
    assert [(item.id, item.score) for item in found] == [("x", 1.0), ("y", 0.0), ("x-2", 0.0)]
    assert [item.cluster for item in found] == ["x", "y", "x-2"]


def test_tasks_of_a_group_are_clusters_and_fields_are() -> None:
    group = suite(law=Task(acc=True), art=Task(acc=True))
    found = items_of(group, samples={"law": [sample("x", acc=1)], "art": [sample("y", acc=1)]})
    assert [item.cluster for item in found] == ["law", "art"]
    docs = [{"subject": "tort"}, {"subject": "", "passage_id": 7}, {}]
    samples = [sample(str(n), doc=doc, acc=1) for n, doc in enumerate(docs)]
    (*named, alone) = items_of(suite(one=Task(acc=True)), samples={"one": samples})
    assert [item.cluster for item in named] == ["subject=tort", "passage_id=7"]
    assert alone.cluster == alone.id


def test_the_subject_of_all_items_makes_no_cluster_of_them() -> None:
    """As in mmlu_anatomy: one cluster would say nothing, however many items it has."""
    samples = [sample(content, doc={"subject": "anatomy"}, acc=1) for content in ("x", "y")]
    found = items_of(suite(one=Task(acc=True)), samples={"one": samples})
    assert [item.cluster for item in found] == ["x", "y"]


def test_more_is_better() -> None:
    errors = suite(one=Task(ter=False))
    assert items_of(errors, samples={"one": [sample("x", ter=0.25)]})[0].score == -0.25
    texts = suite(one=Task(word_perplexity=False))
    found = items_of(texts, samples={"one": [sample("x", word_perplexity=(-30.0, 10))]})
    assert found[0].score == -3.0


def test_the_first_filter_counts() -> None:
    samples = [sample("x", acc=1), sample("x", acc=0) | {"filter": "loose"}]
    assert len(items_of(suite(one=Task(acc=True)), samples={"one": samples})) == 1


def test_the_metric_is_the_first_with_a_direction() -> None:
    assert metric_of(suite(one=Task(note=None, acc=True, f1=True))) == "acc"
    assert metric_of(suite("f1", one=Task(acc=True, f1=True))) == "f1"
    with pytest.raises(DataError, match=r"set evaluate\.benchmarks\.mine\.metric"):
        metric_of(suite(one=Task(note=None)))


def test_a_metric_of_the_whole_corpus_is_refused() -> None:
    with pytest.raises(DataError, match="bleu of some is of all items together"):
        items_of(suite(one=Task(bleu=True)), samples={"one": [sample("x", bleu=("a", "b"))]})
