# SPDX-License-Identifier: Apache-2.0
"""Metrics of Future AGI's package ai-evaluation, run in a process of their own.

That package asks servers for models and word lists where its user names no server. The process has
no keys and no network, unless the settings ask for the cloud; and it can be ended when it hangs.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from megacpt.config.sections import FutureAgiConfig
from megacpt.device.environment import for_child, has_secret
from megacpt.endpoint.client import Stopped
from megacpt.errors import EnvironmentError_
from megacpt.evaluate.line_process import LineProcess
from megacpt.evaluate.usefulness.questions import Question

KEYS = ("FI_API_KEY", "FI_SECRET_KEY")
STARTING_S = 600.0
"""Importing the package takes ten seconds, on a loaded machine many times that."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
"""Nothing is tried that would be refused."""


class MetricFailed(Exception):
    """The metric has no score for an answer; the message is the package's."""


def require_ready(config: FutureAgiConfig) -> None:
    """EnvironmentError_: the package or a key is missing."""
    if importlib.util.find_spec("fi") is None or importlib.util.find_spec("fi.evals") is None:
        raise EnvironmentError_(
            "ai-evaluation, which metric=future_agi uses, is not installed: "
            "pip install 'megacpt[usefulness]'."
        )
    missing = [name for name in KEYS if config.cloud and not has_secret(name)]
    if missing:
        raise EnvironmentError_(
            f"future_agi.cloud=true needs {' and '.join(missing)}; set that environment variable, "
            "or use a metric without the cloud."
        )


def _environment(config: FutureAgiConfig) -> dict[str, str]:
    return for_child(more={}) if config.cloud else for_child(more=OFFLINE, without=KEYS)


class FutureAgi:
    """One answer after the other; a context, at whose end the process ends."""

    def __init__(self, config: FutureAgiConfig) -> None:
        require_ready(config)
        self._config, self._is_stopped = config, False
        self._start()

    def __enter__(self) -> FutureAgi:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_stopped = True
        self._process.stop()

    def score(self, answer: str, *, question: Question) -> float:
        """From 0 to 1; MetricFailed where there is none."""
        config = self._config
        fields = {
            "output": answer,
            "input": question.text,
            "expected_output": question.references[0] if question.references else None,
            "context": question.context or None,
        }
        reply = self._exchange(
            {
                "metric": config.metric,
                "cloud": config.cloud,
                "model": config.model,
                "inputs": {name: value for name, value in fields.items() if value is not None},
            }
        )
        score = reply.get("score")
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise MetricFailed(str(reply.get("error") or f"score {score} is outside [0, 1]"))
        return float(score)

    def _start(self) -> None:
        self._process = LineProcess(
            "megacpt.evaluate.usefulness.future_agi_process",
            environment=_environment(self._config),
        )
        first = {"cloud": self._config.cloud}
        if self._process.exchange(first, timeout_s=STARTING_S) is None:
            self._process.stop()
            raise EnvironmentError_(
                "the package ai-evaluation cannot be used here; what it says: "
                "python -c 'import fi.evals'"
            )

    def _exchange(self, said: object) -> dict[str, Any]:
        """A process that takes too long is ended, and started again with the next answer."""
        if self._is_stopped:
            raise Stopped
        if self._process.has_ended:
            self._process.stop()
            self._start()
        limit_s = self._config.timeout_s
        reply = self._process.exchange(said, timeout_s=limit_s)
        return reply or {"error": f"the metric ended, or took longer than {limit_s:g} s"}
