# SPDX-License-Identifier: Apache-2.0
"""Programs that a model wrote are run apart, by lm-eval's own evaluation of a task."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import BenchmarkConfig
from megacpt.device.isolation import require_isolation
from megacpt.errors import ConfigError, EnvironmentError_
from megacpt.evaluate.benchmarks.samples import items_of
from megacpt.evaluate.benchmarks.sandbox import kept_apart
from megacpt.evaluate.benchmarks.tasks import load_suite
from tests.evaluate.benchmarks.local_tasks import PROGRAMS, write_running_task

pytestmark = [
    pytest.mark.mcore,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs megacpt[eval]"),
]


def writer(port: int) -> Any:
    """A model of lm-eval that writes the program which an item names."""
    from lm_eval.api.model import LM

    class Writer(LM):
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            raise AssertionError("the task only writes")

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            raise AssertionError("the task only writes")

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [PROGRAMS[request.args[0]].replace("{port}", str(port)) for request in requests]

    return Writer()


def test_programs_are_run_apart(tmp_path: Path, one_rank: None) -> None:
    from megacpt.evaluate.benchmarks.suites import run_suite

    try:
        require_isolation()
    except EnvironmentError_ as error:
        pytest.skip(str(error))
    task = str(write_running_task(tmp_path / "tasks"))
    suite = load_suite("code", config=BenchmarkConfig(task=task), execute_code=True)
    with socket.create_server(("127.0.0.1", 0)) as server, kept_apart(suite):
        samples = run_suite(suite, lm=writer(server.getsockname()[1]), seed=1)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    scores = [item.score for item in items_of(suite, samples=samples)]
    assert dict(zip(PROGRAMS, scores, strict=True)) == {
        **dict.fromkeys(PROGRAMS, 0.0),
        "right": 1.0,
    }
    # Where nothing keeps it apart, it is the task's own again.
    (loaded,) = suite.tasks.values()
    assert "process_results" not in vars(loaded)


def test_a_machine_that_cannot_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "python"
    refusing.write_text("#!/bin/sh\necho this machine has no means >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(refusing))
    task = str(write_running_task(tmp_path / "tasks"))
    with pytest.raises(EnvironmentError_, match="this machine has no means"):
        load_suite("code", config=BenchmarkConfig(task=task), execute_code=True)
    with pytest.raises(ConfigError, match="execute_code=true"):
        load_suite("code", config=BenchmarkConfig(task=task), execute_code=False)
