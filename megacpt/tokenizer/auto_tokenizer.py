# SPDX-License-Identifier: Apache-2.0
"""Whether transformers' AutoTokenizer gives a folder's texts the ids of its tokenizer.json.

It need not: tokenizer_config.json names a class, and transformers 5 builds many of these anew from
the vocabulary alone, so that GPT2Tokenizer loses a pre-tokenizer that sets digits apart. Models
learned the ids of tokenizer.json, and whoever reads the export uses AutoTokenizer: a folder that
says both is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from megacpt.errors import ModelError
from megacpt.tokenizer.backend import EncodeError, Outcome, encode_each
from megacpt.tokenizer.fast import differing_text, probes
from megacpt.tokenizer.folder import CONFIG, read_json
from megacpt.tokenizer.hugging_face import HuggingFaceBackend
from megacpt.tokenizer.load import Tokenizer, load_tokenizer

FILE_CLASSES = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""Read tokenizer.json as it is ..."""
FILE_FAMILIES = {None, "llama", "mistral", "mixtral", "qwen3", "qwen3_moe", "smollm3"}
"""... for models of these types; transformers corrects the class of some others."""
TIMEOUT_S = 300
# Importing torch takes seconds, and no tokenizer needs it.
SCRIPT = """
import json, sys
sys.modules["torch"] = None
import transformers
read = transformers.AutoTokenizer.from_pretrained
made = read(sys.argv[1], local_files_only=True, trust_remote_code=False)
found = {"version": transformers.__version__, "kind": type(made).__name__}
found |= {"splits": made.split_special_tokens, "content": made.backend_tokenizer.to_str()}
print(json.dumps(found))
"""


def load_checked(path: Path | str, *, settings: str | None = None) -> Tokenizer:
    """``load_tokenizer`` for much text; of a folder that AutoTokenizer reads as it does.

    A tokenizer.json that is named itself is taken at its word.
    """
    tokenizer = load_tokenizer(path, settings=settings, fast=True)
    if not Path(path).is_dir() or _is_file_s(Path(path)):
        return tokenizer
    assert isinstance(tokenizer.backend, HuggingFaceBackend), "a folder has a tokenizer.json"
    found = _ask(Path(path))
    if isinstance(found, str):
        note = f"AutoTokenizer cannot read {path} ({found}): its tokenizer.json alone says the ids."
        return replace(tokenizer, notes=(*tokenizer.notes, note))
    _require_same(tokenizer, backend=tokenizer.backend, found=found)
    return tokenizer


def _is_file_s(folder: Path) -> bool:
    """Whether AutoTokenizer reads tokenizer.json as it is, which need not be asked."""
    config, model = read_json(folder / CONFIG), read_json(folder / "config.json")
    if not config and not model:
        return True
    kind, family = config.get("tokenizer_class"), model.get("model_type")
    return kind in FILE_CLASSES and family in FILE_FAMILIES and "auto_map" not in config


def _ask(folder: Path) -> dict[str, Any] | str:
    """What AutoTokenizer makes of the folder, or why it makes nothing."""
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode or not lines:
        return lines[-1] if lines else f"exit code {done.returncode}"
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _require_same(
    tokenizer: Tokenizer, *, backend: HuggingFaceBackend, found: dict[str, Any]
) -> None:
    folder = tokenizer.folder
    other = HuggingFaceBackend(found["content"].encode(), path=folder)
    if found["splits"]:
        other.split_special()
    if other.identity == backend.identity:
        return
    texts = probes([token.content for token in other.added_tokens.values()])
    for special in (True, False):
        text = differing_text(texts, fast=other, reference=backend, special=special)
        if text is not None:
            theirs, ours = (
                encode_each([text], encoder=encoder, special=special)[0]
                for encoder in (other, backend)
            )
            raise ModelError(
                f"{folder} has two tokenizers: AutoTokenizer of transformers {found['version']} "
                f"builds {found['kind']}, which gives {text[:40]!r} {_shown(theirs, beside=ours)}, "
                f"and tokenizer.json gives it {_shown(ours, beside=theirs)}. {_remedy(folder)}"
            )


def _remedy(folder: Path) -> str:
    file = f"the file at its word with --tokenizer {folder / 'tokenizer.json'}"
    if read_json(folder / "config.json").get("model_type") not in FILE_FAMILIES:
        return f"Take {file}, which transformers 4 and 5.0 read as it is."
    return (
        f'Set "tokenizer_class": "PreTrainedTokenizerFast" in {folder / CONFIG}, so that all read '
        f"tokenizer.json as transformers 4 does; or take {file}."
    )


def _shown(row: Outcome, *, beside: Outcome) -> str:
    """Some ids from the first that differs."""
    if isinstance(row, EncodeError) or isinstance(beside, EncodeError):
        return f"no ids ({row})" if isinstance(row, EncodeError) else f"the ids {row[:6].tolist()}"
    first = next((n for n, (a, b) in enumerate(zip(row, beside, strict=False)) if a != b), None)
    at = min(row.size, beside.size) if first is None else first
    return f"the ids {row[at : at + 6].tolist()} from {at} on"
