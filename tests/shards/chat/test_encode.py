# SPDX-License-Identifier: Apache-2.0
"""Ids and masks equal those of transformers' apply_chat_template, token for token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.shards.chat.conversation import ConversationError, read_conversation
from megacpt.shards.chat.encode import ChatEncoder, EncodedChat, OnLong, TooLongError
from megacpt.shards.chat.template import choose_template
from megacpt.tokenizer import load_tokenizer
from tests.shards.chat.templates import UNMARKED, write_tokenizer

WORDS = st.text(alphabet="the quickfox.é猫🙂\n 4", min_size=1, max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("bpe"), chat_template=UNMARKED)


@given(said=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_as_transformers(folder: Path, said: list[tuple[str, str]]) -> None:
    from transformers import AutoTokenizer

    messages = [
        {"role": role, "content": text}
        for turns in said
        for role, text in zip(("user", "assistant"), turns, strict=True)
    ]
    tokenizer = load_tokenizer(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    marked = choose_template("chatml", tokenizer=tokenizer)
    expected = theirs.apply_chat_template(
        messages, chat_template=marked.text, return_dict=True, return_assistant_tokens_mask=True
    )
    for template in (marked, choose_template(None, tokenizer=tokenizer)):
        encoder = ChatEncoder(tokenizer=tokenizer, template=template)
        (found,) = encoder.encode([read_conversation({"messages": messages})])
        assert isinstance(found, EncodedChat)
        assert found.ids_T.tolist() == expected["input_ids"]
        assert found.learned_T.tolist() == expected["assistant_masks"]


def encoded(folder: Path, **settings: object) -> EncodedChat | ConversationError:
    tokenizer = load_tokenizer(folder)
    template = choose_template("chatml", tokenizer=tokenizer)
    encoder = ChatEncoder(tokenizer=tokenizer, template=template, **settings)  # type: ignore[arg-type]
    talk = {"prompt": "the quick brown fox", "completion": "says hello to the lazy dog"}
    (found,) = encoder.encode([read_conversation(talk)])
    return found


def test_long_conversations(folder: Path) -> None:
    whole = encoded(folder)
    assert isinstance(whole, EncodedChat)
    size = whole.ids_T.size
    cut = encoded(folder, max_tokens=size - 2, on_long=OnLong.truncate)
    assert isinstance(cut, EncodedChat)
    assert cut.truncated
    np.testing.assert_array_equal(cut.ids_T, whole.ids_T[:-2])
    np.testing.assert_array_equal(cut.learned_T, whole.learned_T[:-2])
    for policy in (OnLong.stop, OnLong.skip):
        found = encoded(folder, max_tokens=size - 1, on_long=policy)
        assert isinstance(found, TooLongError)
        assert str(found) == f"has {size} tokens, and {size - 1} are allowed (--max-tokens)"
    gone = encoded(folder, max_tokens=5, on_long=OnLong.truncate)
    assert str(gone) == "holds no token of the assistant's to learn"
