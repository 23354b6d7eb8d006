# SPDX-License-Identifier: Apache-2.0
"""Items as lm-eval makes them of a task, its data on this disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.curate.decontaminate.items import SuiteItem
from megacpt.curate.decontaminate.settings import SuiteConfig
from megacpt.curate.decontaminate.suites import read_suite
from megacpt.errors import DataError

pytestmark = pytest.mark.slow  # lm-eval reads the YAML of thousands of tasks.
RECORD = {
    "question": "Why is the sky over the sea blue on a clear day?",
    "passage": "Light is scattered by small things more if it is blue.",
    "subject": "physics",
    "choices": ["for the paint on it", "since air scatters light"],
    "answer": 1,
    "label": "yes",
}
OPTIONS = tuple(RECORD["choices"])  # type: ignore[arg-type]
TASKS = {
    # As MMLU: options are in the prompt, and the answer is a letter.
    "lettered": (
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nAnswer:",
            "doc_to_choice": ["A", "B"],
            "doc_to_target": "answer",
        },
        SuiteItem(question=(RECORD["question"],), answer=OPTIONS[1:], options=OPTIONS),
    ),
    # As ARC: the options are scored, and not shown.
    "scored": (
        {
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
        },
        SuiteItem(question=(RECORD["question"],), answer=OPTIONS[1:], options=OPTIONS),
    ),
    # As BoolQ and GSM8K: a passage is apart from what is asked about it; a text is generated.
    "generated": (
        {
            "output_type": "generate_until",
            "doc_to_text": "{{passage}}\nQuestion: {{question}}?\nAnswer:",
            "doc_to_target": " {{label}}",
        },
        SuiteItem(question=(RECORD["question"], RECORD["passage"]), answer=(" yes",)),
    ),
    # As WinoGrande: beginnings are the options, and the target is their common end.
    "ends": (
        {
            "output_type": "multiple_choice",
            "doc_to_text": "answer",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "label",
        },
        SuiteItem(question=tuple(f"{option} yes" for option in OPTIONS)),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval", reason="needs the extra eval: pip install 'megacpt[eval]'")
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.jsonl").write_text(json.dumps(RECORD) + "\n")
    for name, (task, _) in TASKS.items():
        content: dict[str, Any] = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
            "test_split": "test",
            **task,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_items_of_a_task(folder: Path, name: str) -> None:
    suite = read_suite("sky", settings=SuiteConfig(path=str(folder / f"{name}.yaml")))
    assert suite.items == (TASKS[name][1],)


def test_a_task_that_is_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match=r"suite sky: lm-eval cannot load no_such_task \(KeyError"):
        read_suite("sky", settings=SuiteConfig(path="no_such_task"))
