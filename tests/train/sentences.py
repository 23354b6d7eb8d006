# SPDX-License-Identifier: Apache-2.0
"""A task of lm-eval whose items are texts, by their likelihood a word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

WORDS = (
    *("harbour", "light", "water", "stone", "paper", "river"),
    *("engine", "winter", "letter", "garden", "silver", "market"),
)


def sentences() -> list[str]:
    """Forty, whose likelihood a sane run changes little."""
    texts = [
        f"The {a} is near the {b} and far from the {c}."
        for a, b, c in zip(WORDS * 4, WORDS[1:] * 4, WORDS[5:] * 6, strict=False)
    ]
    return list(dict.fromkeys(texts[:40]))


def write_task(folder: Path, *, texts: Sequence[str]) -> Path:
    folder.mkdir()
    data = folder / "sentences.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = {
        "task": "sentences",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    (folder / "sentences.yaml").write_text(yaml.safe_dump(task))
    return folder
