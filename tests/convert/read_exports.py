# SPDX-License-Identifier: Apache-2.0
"""What one version of transformers makes of exports: ``python read_exports.py JOB.json``.

Run with that version before all others on the path. The job names the folders, the tokens whose
logits and the texts whose ids are asked for, and the file that takes them. A folder of a model that
the version does not have is left out of it.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

WARNINGS: list[str] = []


def read(folder: str, *, tokens: list[list[int]], texts: list[str]) -> dict[str, Any]:
    stated = json.loads((Path(folder) / "config.json").read_text())
    kind = AutoModelForCausalLM
    if "text_config" in stated:
        kind = transformers.AutoModelForImageTextToText
    # By default many versions compute Gemma 2's without the bound of scores.
    how = {"attn_implementation": "eager"} if stated.get("attn_logit_softcapping") else {}
    model = kind.from_pretrained(folder, local_files_only=True, **how).eval()
    # Theirs by name: 5 would ask mistral-common, which tests have without what it needs.
    by_name = model.config.model_type in ("mistral", "mistral3", "mixtral", "ministral3")
    kind = PreTrainedTokenizerFast if by_name else AutoTokenizer
    tokenizer = kind.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        # A cache of 4.48 warns of itself.
        logits = model(torch.tensor(tokens), use_cache=False).logits
    return {
        "logits": logits,
        "dtype": str(next(model.parameters()).dtype),
        "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
        "ids_of_text": [tokenizer(text)["input_ids"] for text in texts],
        "special": sorted(tokenizer.all_special_tokens),
        "ends": model.generation_config.eos_token_id,
        "warnings": list(WARNINGS),
    }


def model_type(folder: str) -> str:
    return str(json.loads((Path(folder) / "config.json").read_text())["model_type"])


class Collect(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        WARNINGS.append(record.getMessage())


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    logging.getLogger("transformers").addHandler(Collect(level=logging.WARNING))
    read_of = {}
    for folder in job["folders"]:
        WARNINGS.clear()
        if model_type(folder) in CONFIG_MAPPING_NAMES:
            read_of[folder] = read(folder, tokens=job["tokens"], texts=job["texts"])
    torch.save({"version": transformers.__version__, "read": read_of}, job["output"])


if __name__ == "__main__":
    main(sys.argv[1])
