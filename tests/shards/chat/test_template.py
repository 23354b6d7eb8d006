# SPDX-License-Identifier: Apache-2.0
"""Text and learned parts of a conversation by templates with marks and without, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.errors import ConfigError, DataError
from megacpt.shards.chat.conversation import ConversationError, read_conversation
from megacpt.shards.chat.template import ChatTemplate, choose_template, packaged
from megacpt.tokenizer import load_tokenizer
from tests.shards.chat.templates import FORGETTING, UNMARKED, write_tokenizer

TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "x|hi"},
        {"role": "user", "content": "two and two?"},
        {"role": "assistant", "content": "four"},
    ]
}
LEARNED = ["x|hi<|im_end|>\n", "four<|im_end|>\n"]
TINY = Path(__file__).parents[3] / "configs" / "model" / "tiny"


def learned(template: ChatTemplate, talk: dict[str, object] = TALK) -> list[str]:
    found = template.render(read_conversation(talk))
    return [found.text[begin:end] for begin, end in found.spans]


def test_marks_and_prefixes_find_the_same(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, chat_template=UNMARKED))
    marked, unmarked = (
        choose_template("chatml", tokenizer=tokenizer),
        choose_template(None, tokenizer=tokenizer),
    )
    assert marked.is_marked
    assert not unmarked.is_marked
    assert learned(marked) == learned(unmarked) == LEARNED
    talk = read_conversation(TALK)
    assert marked.render(talk).text == unmarked.render(talk).text


@pytest.mark.parametrize("name", ["chatml", None])
def test_a_turn_that_is_not_to_be_learned(name: str | None, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, chat_template=UNMARKED))
    messages = [dict(message) for message in TALK["messages"]]
    messages[2]["train"] = False  # type: ignore[assignment]
    template = choose_template(name, tokenizer=tokenizer)
    assert learned(template, {"messages": messages}) == LEARNED[1:]


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, chat_template=FORGETTING))
    template = choose_template(None, tokenizer=tokenizer)
    with pytest.raises(ConversationError, match=r"cannot be cut into turns.*messages\[2\]"):
        learned(template)
    assert learned(template, {"messages": TALK["messages"][:3]}) == LEARNED[:1]


def test_chatml_writes_tools_and_calls(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    talk = {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "4"},
            {"role": "assistant", "content": [{"type": "text", "text": "four"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    template = choose_template("chatml", tokenizer=tokenizer)
    text = template.render(read_conversation(talk)).text
    assert text.startswith("<|im_start|>system\n# Tools\n")
    assert '{"type": "function", "function": {"name": "add"}}' in text
    assert "<|im_start|>tool\n4<|im_end|>\n" in text
    called = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    assert learned(template, talk) == [f"{called}\n{called}<|im_end|>\n", "four<|im_end|>\n"]


def test_plain_ends_a_reply_with_the_end_of_text() -> None:
    template = choose_template("plain", tokenizer=load_tokenizer(TINY))
    assert learned(template) == [" x|hi<eos>", " four<eos>"]
    with pytest.raises(ConversationError, match="has no place for tools"):
        learned(template, TALK | {"tools": [{"name": "add"}]})


@pytest.mark.parametrize(
    "around",
    [
        "{% macro said() %}MARKED{% endmacro %}{{ said() }}",
        "{% set said %}MARKED{% endset %}{{ said }}",
        "{% filter trim %}MARKED{% endfilter %}",
    ],
)
def test_marks_that_transformers_misplaces_are_refused(around: str, tmp_path: Path) -> None:
    marked = "Assistant: {% generation %}{{ messages[-1].content }}{% endgeneration %}"
    bare = load_tokenizer(write_tokenizer(tmp_path / "bare"))
    file = tmp_path / "own.jinja"
    file.write_text(f"{{% for m in [1] %}}{marked}{{% endfor %}}")
    assert learned(choose_template(str(file), tokenizer=bare)) == ["four"]
    text = around.replace("MARKED", marked)
    misplaced = ChatTemplate(name="own", text=text)
    assert learned(misplaced) != ["four"]
    file.write_text(text)
    with pytest.raises(DataError, match=r"has \{% generation %\} inside a macro"):
        choose_template(str(file), tokenizer=bare)


def test_plain_takes_all_roles_and_parts_of_text() -> None:
    template = choose_template("plain", tokenizer=load_tokenizer(TINY))
    roles = ("developer", "user", "tool", "assistant")
    whole = [{"role": role, "content": f" of {role}\n"} for role in roles]
    parts = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in whole]
    texts = [template.render(read_conversation({"messages": m})).text for m in (whole, parts)]
    said = "System:  of developer\n\nUser:  of user\n\nTool:  of tool\n\n"
    assert texts == 2 * [f"{said}Assistant:  of assistant\n<eos>"]


def test_where_templates_are_looked_for(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": UNMARKED}]
    folder = write_tokenizer(tmp_path / "several")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": several}))
    bare = load_tokenizer(write_tokenizer(tmp_path / "bare"))
    assert choose_template(None, tokenizer=load_tokenizer(folder)).text == UNMARKED
    assert choose_template(str(folder), tokenizer=bare).text == UNMARKED
    (folder / "chat_template.jinja").write_text(FORGETTING)
    assert choose_template(str(folder), tokenizer=bare).text == FORGETTING
    assert choose_template(str(folder / "chat_template.jinja"), tokenizer=bare).text == FORGETTING


def test_a_missing_or_broken_template_is_named(tmp_path: Path) -> None:
    bare = load_tokenizer(write_tokenizer(tmp_path / "bare"))
    with pytest.raises(DataError, match=r"bare has no chat template.*chatml, plain, a Jinja file"):
        choose_template(None, tokenizer=bare)
    with pytest.raises(DataError, match=r"--chat-template chatlm cannot be read.*chatml, plain"):
        choose_template("chatlm", tokenizer=bare)
    (tmp_path / "broken.jinja").write_text("{% for %}")
    with pytest.raises(DataError, match=r"broken.jinja is not one that transformers can read"):
        choose_template(str(tmp_path / "broken.jinja"), tokenizer=bare)
    with pytest.raises(ConfigError, match=r"writes <\|im_end\|>, which the tokenizer .* plain"):
        choose_template("chatml", tokenizer=load_tokenizer(TINY))
    assert packaged() == ["chatml", "plain"]
