# SPDX-License-Identifier: Apache-2.0
"""The process that scores tasks which run what the model wrote: a line of JSON in, one out.

It loads the suite as the first rank does, then scores each item in a fork of itself that is kept
apart (megacpt.device.isolation).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from megacpt.config.sections import BenchmarkConfig
from megacpt.device.environment import die_with_parent
from megacpt.device.isolation import Ended, Limits, isolated
from megacpt.errors import MegacptError
from megacpt.evaluate.benchmarks.tasks import allowing_code, load_suite
from megacpt.evaluate.line_process import Replies

LIMITS = Limits(wall_s=30.0, memory_bytes=2**31)
"""Of one item: HumanEval's and MBPP's own limit is three seconds a program."""


def main() -> None:
    die_with_parent()
    lines = sys.stdin
    replies = Replies()
    first = json.loads(lines.readline())
    try:
        suite = load_suite(
            first["name"], config=BenchmarkConfig(**first["config"]), execute_code=True
        )
    except MegacptError as error:
        replies.say({"error": str(error)})
        return
    replies.say({"ready": True})
    for line in lines:
        asked = json.loads(line)
        work = partial(scored, suite.tasks[asked["task"]], asked=asked)
        try:
            replies.say({"metrics": isolated(work, limits=LIMITS)})
        except Ended as error:
            replies.say({"ended": str(error)})


def scored(task: Any, *, asked: Mapping[str, Any]) -> dict[str, float]:
    with allowing_code():
        metrics = task.process_results(asked["doc"], asked["results"])
    return {str(name): float(value) for name, value in metrics.items()}


if __name__ == "__main__":
    main()
