# SPDX-License-Identifier: Apache-2.0
"""Items of lm-eval's tasks, as the library itself reads them from their YAML and data."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from megacpt.curate.decontaminate.items import SuiteItem, chosen, normalised
from megacpt.errors import DataError, EnvironmentError_

SHOWN_SHARE = 0.5
"""Of a prompt's words that must be fields of its record; else the whole prompt is the question."""


def task_items(spec: str, *, suite: str) -> Iterator[SuiteItem]:
    """Of the split a task is scored on; of a group, of all its tasks.

    ``spec`` is a name, or the path of a YAML file.
    """
    for name, task in sorted(_tasks(spec, suite=suite).items()):
        for record in task.eval_docs:
            item = _item(task, record=record)
            if not item.question:
                raise DataError(f"suite {suite}: task {name} makes no question of {record}.")
            yield item


def _tasks(spec: str, *, suite: str) -> Mapping[str, Any]:
    try:
        library: Any = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise EnvironmentError_(
            f"suite {suite}: {spec} is no file, and tasks of lm-eval are read by the package "
            "lm-eval: pip install 'megacpt[eval]'. Or name a file of items."
        ) from error
    try:
        found: Mapping[str, Any] = _manager(library).load(spec)["tasks"]
    except (
        Exception
    ) as error:  # Whatever a task, its code or the library that loads its data raise.
        raise DataError(
            f"suite {suite}: lm-eval cannot load {spec} ({type(error).__name__}: {error}); name a "
            "task that `lm-eval ls tasks` lists, a YAML file, or a file of items."
        ) from error
    return found


@cache
def _manager(library: Any) -> Any:
    """It has read the YAML of thousands of tasks, which takes seconds."""
    return library.TaskManager()


def _item(task: Any, *, record: Mapping[str, Any]) -> SuiteItem:
    prompt = task.doc_to_text(record)
    target = task.doc_to_target(record)
    options = _options(task, record=record)
    if isinstance(prompt, int):  # The options are beginnings, and the target their common end.
        return SuiteItem(question=tuple(f"{beginning} {target}" for beginning in options))
    if not prompt:  # Text whose likelihood is measured.
        return SuiteItem(question=(str(target),))
    question, shown = _of_record(prompt, record=record)
    options = shown or options  # Of which those of the task are the letters.
    answers = target if isinstance(target, list) else [target]
    answer = tuple(text for a in answers for text in chosen(a, options=options))
    return SuiteItem(question=question, answer=answer, options=tuple(options))


def _options(task: Any, *, record: Mapping[str, Any]) -> list[str]:
    if task.config.doc_to_choice is None:
        return []
    return [str(option) for option in task.doc_to_choice(record)]


def _of_record(prompt: str, *, record: Mapping[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """The fields of a record that its prompt shows, and the options that it shows: the rest is the
    same words around every item."""
    asked = [value for value in record.values() if isinstance(value, str)]
    lists = [value for value in record.values() if isinstance(value, list)]
    options = [text for value in lists for text in value if isinstance(text, str)]
    whole, *words = normalised([prompt, *asked, *options])
    shown = [bool(text) and f" {text} " in f" {whole} " for text in words]
    question = [text for text, is_shown in zip(asked, shown, strict=False) if is_shown]
    listed = [text for text, is_shown in zip(options, shown[len(asked) :], strict=True) if is_shown]
    covered = sum(
        text.count(" ") + 1 for text, is_shown in zip(words, shown, strict=True) if is_shown
    )
    if not question or covered < SHOWN_SHARE * (whole.count(" ") + 1):
        question = [prompt]
    return tuple(question), listed
