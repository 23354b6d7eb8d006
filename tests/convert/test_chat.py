# SPDX-License-Identifier: Apache-2.0
"""The exported folder asks in the run's words, and stops where its replies ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.convert.chat import end_of_reply, write_chat_template
from megacpt.errors import ModelError
from megacpt.shards.chat.template import BUILTIN
from megacpt.tokenizer import load_tokenizer
from tests.shards.chat.templates import UNMARKED, write_tokenizer

CHATML = (BUILTIN / "chatml.jinja").read_text()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "chat_template.jinja").write_text(CHATML)
    return run_dir


def test_transformers_writes_what_was_learned(run_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_tokenizer(tmp_path / "hf", chat_template="of the base model")
    (folder / "generation_config.json").write_text('{"eos_token_id": 397, "top_k": 3}')
    write_chat_template(run_dir, folder=folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    asked = theirs.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    generation = json.loads((folder / "generation_config.json").read_text())
    end = theirs.convert_tokens_to_ids("<|im_end|>")
    assert generation == {"eos_token_id": [end, 397], "top_k": 3}
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())


def test_a_reply_that_ends_with_the_end_of_text_needs_no_other_end(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, chat_template=(BUILTIN / "plain.jinja").read_text())
    tokenizer = load_tokenizer(folder)
    assert end_of_reply(tokenizer) == tokenizer.eos_id
    marked = UNMARKED.replace("<|im_end|>\n", "\n")
    assert end_of_reply(load_tokenizer(write_tokenizer(folder, chat_template=marked))) is None


def test_a_reply_ends_where_generation_knew_of_another_end(run_dir: Path, tmp_path: Path) -> None:
    """The tokenizer's own end of text is not the one that the base model's generation stops at."""
    (run_dir / "chat_template.jinja").write_text((BUILTIN / "plain.jinja").read_text())
    folder = write_tokenizer(tmp_path / "hf")
    end = load_tokenizer(folder).eos_id
    generation = folder / "generation_config.json"
    write_chat_template(run_dir, folder=folder)
    assert not generation.exists()
    for stated, ends in ((3, [end, 3]), ([3, end], [3, end]), (None, [end])):
        generation.write_text(json.dumps({"eos_token_id": stated}))
        write_chat_template(run_dir, folder=folder)
        assert json.loads(generation.read_text()) == {"eos_token_id": ends}


def test_tools_are_written_in_the_words_of_training(run_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_tokenizer(tmp_path / "hf")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("of the base model")
    write_chat_template(run_dir, folder=folder)
    assert AutoTokenizer.from_pretrained(folder).get_chat_template(tools=[{}]) == CHATML


def test_a_run_of_text_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "hf", chat_template="of the base model")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    write_chat_template(tmp_path, folder=folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_template_that_writes_no_reply_is_named(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "chat_template.jinja").write_text("{{ raise_exception('not so') }}")
    folder = write_tokenizer(tmp_path / "hf")
    with pytest.raises(ModelError, match=r"cannot write a question and its reply: .*not so"):
        write_chat_template(run_dir, folder=folder)
