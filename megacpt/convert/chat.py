# SPDX-License-Identifier: Apache-2.0
"""The chat template of a run that learned conversations, in the folder that it is exported to.

Whoever serves the folder then writes prompts as they were in training, and stops where a reply
ends: the token with which the template ends one becomes an end in generation_config.json.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from megacpt.config.paths import RunFolder
from megacpt.errors import ModelError
from megacpt.families.hf_config import GENERATION
from megacpt.files import write_text
from megacpt.shards.chat.conversation import read_conversation
from megacpt.shards.chat.encode import ChatEncoder, EncodedChat
from megacpt.shards.chat.template import FILE, choose_template
from megacpt.tokenizer import Tokenizer, load_tokenizer
from megacpt.tokenizer.folder import CONFIG, read_json
from megacpt.tokenizer.hugging_face import HuggingFaceBackend

ADDITIONAL = "additional_chat_templates"
SAMPLE = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
}


def write_chat_template(run_dir: Path, *, folder: Path) -> None:
    """Nothing, of a run that learned text alone."""
    path = RunFolder(run_dir).chat_template
    if not path.is_file():
        return
    write_text(folder / FILE, text=path.read_text(encoding="utf-8"))
    config = read_json(folder / CONFIG)
    if config.pop("chat_template", None) is not None:
        # Older readers would take that one, of the base model.
        write_text(folder / CONFIG, text=json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    if (folder / ADDITIONAL).is_dir():
        # transformers would take its tool_use for whoever gives tools.
        shutil.rmtree(folder / ADDITIONAL)
    if (folder / "tokenizer.json").is_file():
        _write_end(folder)


def _write_end(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    end = end_of_reply(tokenizer)
    config = read_json(folder / GENERATION)
    stated = config.get("eos_token_id", tokenizer.eos_id)
    known = stated if isinstance(stated, list) else [stated]
    if end is None or end in known:
        return
    ends = [end, *(number for number in known if number is not None)]
    write_text(
        folder / GENERATION, text=json.dumps(config | {"eos_token_id": ends}, indent=2) + "\n"
    )


def end_of_reply(tokenizer: Tokenizer) -> int | None:
    """The last special token of a reply in the folder's template; None where there is none."""
    template = choose_template(None, tokenizer=tokenizer)
    encoder = ChatEncoder(tokenizer=tokenizer, template=template)
    (found,) = encoder.encode([read_conversation(SAMPLE)])
    if not isinstance(found, EncodedChat):
        raise ModelError(
            f"the chat template of {tokenizer.folder} cannot write a question and its reply: it "
            f"{found}; give the run's {FILE} one that can."
        )
    assert isinstance(tokenizer.backend, HuggingFaceBackend)
    special = {n for n, token in tokenizer.backend.added_tokens.items() if token.special}
    said = [int(n) for n in found.ids_T[found.learned_T == 1] if int(n) in special]
    return said[-1] if said else None
