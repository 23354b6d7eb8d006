# SPDX-License-Identifier: Apache-2.0
"""Small tasks of lm-eval with their data in a folder: one of each kind of question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

QUESTIONS = [
    ("What is the capital of France?", ["Paris", "Rome", "a small village", "Oslo"], 0, "places"),
    ("Water freezes at", ["100 degrees", "0 degrees", "50", "a red table"], 1, "physics"),
    ("The opposite of hot is", ["warm", "blue", "cold", "very hot indeed"], 2, "words"),
    ("A week has", ["seven days", "nine days", "two", "no end"], 0, "words"),
    ("Cats are", ["plants", "stones", "numbers", "animals"], 3, "nature"),
    ("Two and two make", ["five", "four", "twenty-two, of course", "one"], 1, "numbers"),
]
INTRODUCTION = (
    "The following are questions that a careful reader answers in a few words. Read each one to "
    "the end, then choose what is right.\n\n"
)
TEXTS = [
    "The ship left the harbour at dawn, and nobody on board knew when it would come back.",
    "A function returns a value; a procedure does not.",
    "Rain.",
]
JSON: dict[str, Any] = {"dataset_path": "json", "test_split": "test"}
SHOTS = {"fewshot_split": "test", "num_fewshot": 2}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "description": INTRODUCTION,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{right}}",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "letters": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nA. {{options[0]}}\nB. {{options[1]}}\nC. {{options[2]}}\n"
        "D. {{options[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **SHOTS,
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{options[right]}}",
        "generation_kwargs": {"until": ["\n", "Question"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}

PROGRAMS = {
    "right": "def double(x): return 2 * x",
    "wrong": "def double(x): return x",
    "ends": "import os; os._exit(0)",
    "connects": "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)\n"
    "def double(x): return 2 * x",
}
"""What a model might write."""
RUNNING = """
import os

assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"

def run(references, predictions):
    assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"
    space = {}
    try:
        exec(predictions[0], space)
        return float(space["double"](4) == 8)
    except Exception:
        return 0.0
"""


def write_running_task(folder: Path) -> Path:
    """programs.yaml, whose score runs what the model wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "running.py").write_text(RUNNING)
    data = folder / "programs.jsonl"
    data.write_text("".join(json.dumps({"question": name}) + "\n" for name in PROGRAMS))
    content = {
        "task": "programs",
        **JSON,
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        **(TASKS["written"] | {"doc_to_text": "{{question}}", "doc_to_target": "{{question}}"}),
        "unsafe_code": True,
        "metric_list": [{"metric": "RUN", "aggregation": "mean", "higher_is_better": True}],
    }
    path = folder / "programs.yaml"
    path.write_text(yaml.safe_dump(content).replace("RUN", "!function running.run"))
    return path


def write_tasks(folder: Path) -> Path:
    """TASK.yaml of each, and its data."""
    folder.mkdir(parents=True)
    questions = [
        {"question": question, "options": options, "right": right, "subject": subject}
        for question, options, right, subject in QUESTIONS
    ]
    texts = [{"text": text} for text in TEXTS]
    for name, task in TASKS.items():
        data = folder / f"{name}.jsonl"
        rows = texts if name == "rolling" else questions
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"data_files": {"test": str(data)}}
        content = {"task": name, **JSON, "dataset_kwargs": files, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder
