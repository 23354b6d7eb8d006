# SPDX-License-Identifier: Apache-2.0
"""Which metrics compare an answer with a reference, and that every question has one for them."""

from __future__ import annotations

from collections.abc import Sequence

from megacpt.config.sections import UsefulnessConfig, UsefulnessMetric
from megacpt.errors import DataError
from megacpt.evaluate.usefulness.questions import Question

WITHOUT_REFERENCE = (UsefulnessMetric.judge, UsefulnessMetric.future_agi)
OF_REFERENCE = ("equals", "starts_with", "ends_with", "levenshtein_similarity")
"""Metrics of ai-evaluation that compare."""


def require_references(questions: Sequence[Question], *, config: UsefulnessConfig) -> None:
    """DataError names a question without the reference that the metric compares with."""
    name = config.metric.name
    needed = config.metric not in WITHOUT_REFERENCE
    if config.future_agi is not None and not config.future_agi.cloud:
        name = config.future_agi.metric
        needed = needed or name in OF_REFERENCE
    lacking = next((q for q in questions if needed and not q.references), None)
    if lacking is not None:
        raise DataError(
            f"{config.questions}: the question {lacking.id} has no reference, which metric={name} "
            "compares answers with; give it one, or use metric=judge."
        )
