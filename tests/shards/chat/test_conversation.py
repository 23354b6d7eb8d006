# SPDX-License-Identifier: Apache-2.0
"""One conversation from each of the shapes that public data sets have, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from megacpt.shards.chat.conversation import ConversationError, read_conversation

ASKED, REPLIED = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
CALL = {"function": {"name": "add", "arguments": {"a": 2}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [ASKED, REPLIED]},
        {"messages": [ASKED | {"name": None}, REPLIED | {"tool_calls": None}]},
        {
            "conversations": [
                {"from": "human", "value": "2+2?"},
                {"from": "gpt", "value": "4"},
            ]
        },
        {"conversations": [ASKED, REPLIED]},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [ASKED], "completion": [REPLIED]},
    ],
)
def test_one_conversation_in_all_shapes(fields: dict[str, Any]) -> None:
    found = read_conversation(fields)
    assert found.messages == (ASKED, REPLIED)
    assert found.learned == (False, True)


def test_what_is_said_before_the_completion_is_not_learned() -> None:
    before = [ASKED, REPLIED, {"role": "user", "content": "Sure?"}]
    found = read_conversation({"prompt": before, "completion": "Yes."})
    assert found.learned == (False, False, False, True)


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}])
def test_a_message_that_is_not_to_be_learned(mark: dict[str, Any]) -> None:
    found = read_conversation({"messages": [ASKED, REPLIED | mark, ASKED, REPLIED]})
    assert found.learned == (False, False, False, True)
    assert found.messages == (ASKED, REPLIED, ASKED, REPLIED)


def test_tools_calls_and_the_system_are_kept() -> None:
    schema = {"type": "function", "function": {"name": "add"}}
    messages = [
        {"role": "system", "content": "Count."},
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
        REPLIED,
    ]
    found = read_conversation({"messages": messages, "tools": [schema]})
    assert found.tools == (schema,)
    assert found.messages[2] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert found.learned == (False, False, True, False, True)
    assert read_conversation({"messages": [ASKED, REPLIED], "tools": "[]"}).tools == ()


def test_share_gpt_calls_a_function() -> None:
    turns = [
        {"from": "human", "value": "2+2?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "4"},
    ]
    found = read_conversation({"system": "Count.", "conversations": turns})
    assert [m["role"] for m in found.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert found.messages[2]["tool_calls"] == [{"type": "function", **CALL}]


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}])
@pytest.mark.parametrize(
    "turn",
    [
        {"from": "gpt", "value": "4"},
        {"from": "function_call", "value": '{"name": "add"}'},
    ],
)
def test_a_turn_of_share_gpt_that_is_not_to_be_learned(
    turn: dict[str, Any], mark: dict[str, Any]
) -> None:
    turns = [{"from": "human", "value": "2+2?"}, turn | mark, {"from": "gpt", "value": "4"}]
    found = read_conversation({"conversations": turns})
    assert found.learned == (False, False, True)
    assert "train" not in found.messages[1]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"text": "a"}, "holds no conversation .* its keys are: text"),
        ({"messages": "a"}, "must hold a list of messages under 'messages'"),
        ({"messages": []}, "must hold a list of messages"),
        ({"messages": ["a"]}, r"messages\[0\] must be an object with role and content"),
        ({"messages": [{"role": "cat", "content": "a"}]}, "has the role 'cat'; use one of system"),
        ({"messages": [{"role": "user"}]}, "holds no text under 'content' but nothing"),
        ({"messages": [{"role": "user", "content": 3}]}, "but int"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "but parts that are not text",
        ),
        (
            {"messages": [ASKED, REPLIED | {"tool_calls": 3}]},
            "a list of objects under",
        ),
        ({"messages": [ASKED]}, "holds no message of the assistant that is to be learned"),
        ({"messages": [ASKED, REPLIED], "tools": 3}, "a list of schemas under 'tools'"),
        ({"messages": [ASKED, REPLIED], "tools": "{"}, "has tools that are not JSON"),
        ({"conversations": 3}, "must hold a list of turns"),
        ({"conversations": [{"from": "gpt"}]}, "must be an object with from and value"),
        ({"conversations": [{"from": "cat", "value": "a"}]}, "is from 'cat'; use one of human"),
        (
            {"conversations": [{"from": "function_call", "value": "add(2)"}]},
            "is a function_call that is no JSON object",
        ),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConversationError, match=problem):
        read_conversation(fields)
