# SPDX-License-Identifier: Apache-2.0
"""A suite's tasks, loaded by lm-eval with their data and set up as the run says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from megacpt.config.sections import BenchmarkConfig, EvaluateConfig
from megacpt.device.environment import variable
from megacpt.device.isolation import require_isolation
from megacpt.device.packages import require_packages
from megacpt.errors import ConfigError, DataError, Violation
from megacpt.shards.chat.template import own_template
from megacpt.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSuite:
    """``loaded``: as TaskManager.load gives it; its tasks by name."""

    name: str
    config: BenchmarkConfig
    loaded: Mapping[str, Any]

    @property
    def tasks(self) -> Mapping[str, Any]:
        tasks: Mapping[str, Any] = self.loaded["tasks"]
        return tasks

    @property
    def is_group(self) -> bool:
        return len(self.tasks) > 1


def load_suite(name: str, *, config: BenchmarkConfig, execute_code: bool) -> LoadedSuite:
    """Refuse what cannot be measured here; data come from files or lm-eval's cache, else from the
    hub."""
    task = str(Path(config.task).resolve()) if config.names_file else config.task
    manager = _manager(config, path=f"evaluate.benchmarks.{name}")
    if not config.names_file and task not in manager.task_index:
        raise ConfigError([_unknown(name, task=task, known=list(manager.task_index))])
    try:
        with allowing_code() if execute_code else nullcontext():
            loaded = manager.load([task])
    except Exception as error:  # Whatever its file, its code or the library of its data raise.
        raise ConfigError([_unreadable(name, task=task, error=error)]) from error
    suite = LoadedSuite(name=name, config=config, loaded=loaded)
    problems = list(_problems(suite, execute_code=execute_code))
    if problems:
        raise ConfigError(problems)
    if any(runs_code(task) for task in suite.tasks.values()):
        require_isolation()
    metric_of(suite)  # Or what has none would be refused when all is answered.
    _set_up(suite)
    return suite


def require_chat_template(evaluate: EvaluateConfig, *, tokenizer: Tokenizer) -> None:
    """ConfigError where a suite is to be asked in a template that the tokenizer has not."""
    asked = [name for name, benchmark in evaluate.benchmarks.items() if benchmark.chat]
    if asked and own_template(tokenizer) is None:
        raise ConfigError(
            [
                Violation(
                    path=f"evaluate.benchmarks.{name}.chat",
                    value=True,
                    rule=f"needs a chat template, and the tokenizer of {tokenizer.folder} has none",
                    remedy="leave it out, as for most base models",
                )
                for name in asked
            ]
        )


def metric_of(suite: LoadedSuite) -> str:
    """The suite's own, or the first of the tasks' that has a direction."""
    if suite.config.metric is not None:
        return suite.config.metric
    task = next(iter(suite.tasks.values()))
    directions = task.higher_is_better()
    found = next((name for name, is_better in directions.items() if is_better is not None), None)
    if found is None:
        raise DataError(
            f"no metric of {suite.config.task} says whether higher is better; set "
            f"evaluate.benchmarks.{suite.name}.metric, or higher_is_better in its YAML file."
        )
    return str(found)


def allowing_code() -> AbstractContextManager[None]:
    """The library by which most tasks run code asks for it, where they are loaded and scored."""
    return variable("HF_ALLOW_CODE_EVAL", value="1")


def runs_code(task: Any) -> bool:
    """Whether it says that its score takes running what the model wrote."""
    return bool(task.config.unsafe_code)


def _manager(config: BenchmarkConfig, *, path: str) -> Any:
    """Of the user's own tasks, where the task is one, else of lm-eval's, too."""
    require_packages(
        path,
        packages={"lm_eval": (0, 4)},
        remedy="pip install 'megacpt[eval]', or leave the suite out",
    )
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=config.include_path, include_defaults=False)
    if config.names_file or config.task in own.all_subtasks:
        return own
    return _with_lm_evals(TaskManager, include_path=config.include_path)


@cache
def _with_lm_evals(manager: Any, *, include_path: str | None) -> Any:
    """It reads the YAML of thousands of tasks, which takes seconds: once for all suites."""
    return manager(include_path=include_path)


def _set_up(suite: LoadedSuite) -> None:
    """As lm-eval's simple_evaluate does."""
    for task in suite.tasks.values():
        default = task.get_config("num_fewshot")
        if default is None or (default != 0 and suite.config.fewshot is not None):
            task.set_config(key="num_fewshot", value=suite.config.fewshot or 0)


def _problems(suite: LoadedSuite, *, execute_code: bool) -> Iterator[Violation]:
    path = f"evaluate.benchmarks.{suite.name}"
    for name, task in suite.tasks.items():
        if runs_code(task) and not execute_code:
            yield Violation(
                path=f"{path}.task",
                value=suite.config.task,
                rule="runs the code that the model writes",
                remedy="set evaluate.execute_code=true, which runs it in a process without "
                "network, or leave the suite out",
            )
        if getattr(task, "MULTIMODAL", False):  # Of lm-eval, where it is set.
            yield Violation(
                path=f"{path}.task",
                value=suite.config.task,
                rule=f"asks about images or sound in {name}, and the model reads text",
                remedy="use another task",
            )
        writing = task.config.generation_kwargs or {}
        if writing.get("do_sample") and not writing.get("temperature"):
            yield Violation(
                path=f"{path}.task",
                value=suite.config.task,
                rule=f"asks for drawn tokens (do_sample: true) without a temperature in {name}",
                remedy="set a temperature above 0, or do_sample: false, in its YAML file",
            )
        known = list(task.higher_is_better())
        if suite.config.metric is not None and suite.config.metric not in known:
            yield Violation(
                path=f"{path}.metric",
                value=suite.config.metric,
                rule=f"is no metric of {name}",
                remedy=f"use one of {', '.join(known)}",
            )

    fixed = all(task.get_config("num_fewshot") == 0 for task in suite.tasks.values())
    if suite.config.fewshot and fixed:
        yield Violation(
            path=f"{path}.fewshot",
            value=suite.config.fewshot,
            rule=f"changes nothing: {suite.config.task} says num_fewshot: 0, which lm-eval keeps",
            remedy="leave it out, or change num_fewshot in a YAML file of your own",
        )


def _unknown(name: str, *, task: str, known: list[str]) -> Violation:
    near = get_close_matches(task, known, n=3)
    return Violation(
        path=f"evaluate.benchmarks.{name}.task",
        value=task,
        rule=f"is not among the {len(known)} tasks of lm-eval and "
        f"evaluate.benchmarks.{name}.include_path",
        remedy=f"did you mean {' or '.join(near)}?" if near else "lm-eval ls tasks lists them",
    )


def _unreadable(name: str, *, task: str, error: Exception) -> Violation:
    first = str(error).strip().split("\n")[0]
    return Violation(
        path=f"evaluate.benchmarks.{name}.task",
        value=task,
        rule=f"has settings, data or code that cannot be read here ({type(error).__name__}: "
        f"{first})",
        remedy="correct its YAML file; where its data are on the hub, run lm-eval with it once "
        "where there is a network and share its cache (HF_HOME), or write a YAML file with "
        "dataset_path: json and data_files",
    )
