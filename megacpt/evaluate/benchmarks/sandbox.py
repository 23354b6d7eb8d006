# SPDX-License-Identifier: Apache-2.0
"""Items of tasks that run what the model wrote, scored in a process that is kept apart.

An item whose program ends the process, or takes too long or too much memory, is wrong: 0 in each of
the task's metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from megacpt.device.environment import without_secrets
from megacpt.errors import DataError, EnvironmentError_
from megacpt.evaluate.benchmarks.tasks import LoadedSuite, runs_code
from megacpt.evaluate.line_process import LineProcess


@contextmanager
def kept_apart(suite: LoadedSuite) -> Iterator[None]:
    """Open while the suite is scored; suites that run no code are left as they are."""
    unsafe = {name: task for name, task in suite.tasks.items() if runs_code(task)}
    with ExitStack() as stack:
        if unsafe:
            process = stack.enter_context(_Process(suite))
        for name, task in unsafe.items():
            # An attribute of this object stands before the method of its class.
            task.process_results = partial(process.score, name, task=task)
            stack.callback(delattr, task, "process_results")
        yield


class _Process:
    def __init__(self, suite: LoadedSuite) -> None:
        self._suite = suite

    def __enter__(self) -> _Process:
        self._process = LineProcess(
            "megacpt.evaluate.benchmarks.sandbox_process", environment=without_secrets()
        )
        config = asdict(self._suite.config) | {"role": self._suite.config.role.value}
        reply = self._exchange({"name": self._suite.name, "config": config})
        if "ready" not in reply:
            self.__exit__()
            raise EnvironmentError_(
                f"suite {self._suite.name} runs the code that the model writes, and nothing here "
                f"can: {reply['error']}"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def score(self, name: str, doc: Mapping[str, Any], results: Sequence[Any], *, task: Any) -> Any:
        """In place of the task's ``process_results``."""
        reply = self._exchange({"task": name, "doc": doc, "results": results})
        if "metrics" in reply:
            return reply["metrics"]
        if "error" in reply:
            raise EnvironmentError_(f"suite {self._suite.name} cannot be scored: {reply['error']}")
        worse = [metric for metric, is_better in task.higher_is_better().items() if not is_better]
        if worse:
            raise DataError(
                f"an item of {self._suite.config.task} has no score ({reply['ended']}), and of "
                f"{worse[0]} nothing says how bad that is; choose another of the task's metrics."
            )
        return dict.fromkeys(task.higher_is_better(), 0.0)

    def _exchange(self, said: object) -> dict[str, Any]:
        try:
            return self._process.exchange(said) or {"error": "its process ended"}
        except TypeError as error:
            raise DataError(
                f"an item of {self._suite.config.task} holds what JSON cannot ({error}), so it "
                "cannot be scored in a process of its own."
            ) from error
