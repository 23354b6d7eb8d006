# SPDX-License-Identifier: Apache-2.0
"""A conversation from an object of JSON: ``messages``, ``conversations`` or prompt and completion.

``messages`` are those of OpenAI and transformers, with ``tools`` beside them. ``conversations`` are
ShareGPT's turns (``from``, ``value``), with ``system`` beside them. A prompt and a completion are
texts, or lists of messages. A message with ``"train": false`` or ``"weight": 0`` is read and not
learned, as is all of a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""``role``, ``content`` and what else the template may look at."""
ROLES = ("system", "developer", "user", "assistant", "tool")
SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "chatgpt", "bot"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "function_call": "assistant",
}
"""Of ShareGPT."""
SHAPES = "messages, conversations, or prompt and completion"


class ConversationError(Exception):
    """What is wrong with an object, as the end of a sentence that begins with its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    messages: tuple[Message, ...]
    learned: tuple[bool, ...]
    """Of each message, whether it is a target: never one that is not the assistant's."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that it may call, as JSON schemas."""


def read_conversation(fields: Mapping[str, Any]) -> Conversation:
    """ConversationError where it holds none, or one without a reply to learn."""
    messages = list(_messages(fields))
    learned = tuple(_is_learned(message) for message in messages)
    if not any(learned):
        raise ConversationError("holds no message of the assistant that is to be learned")
    kept = tuple({k: v for k, v in m.items() if k not in ("train", "weight")} for m in messages)
    return Conversation(messages=kept, learned=learned, tools=tuple(_tools(fields.get("tools"))))


def _messages(fields: Mapping[str, Any]) -> Iterator[Message]:
    if fields.get("messages") is not None:
        yield from _read_all(fields["messages"], key="messages")
    elif fields.get("conversations") is not None:
        yield from _share_gpt(fields)
    elif fields.get("prompt") is not None and fields.get("completion") is not None:
        for message in _side(fields["prompt"], key="prompt", role="user"):
            yield message | {"train": False}
        yield from _side(fields["completion"], key="completion", role="assistant")
    else:
        known = ", ".join(sorted(fields)) or "none"
        raise ConversationError(f"holds no conversation ({SHAPES}); its keys are: {known}")


def _side(value: Any, *, key: str, role: str) -> Iterator[Message]:
    if isinstance(value, str):
        yield {"role": role, "content": value}
    else:
        yield from _read_all(value, key=key)


def _read_all(value: Any, *, key: str) -> Iterator[Message]:
    if not isinstance(value, list) or not value:
        raise ConversationError(f"must hold a list of messages under {key!r}")
    for number, message in enumerate(value):
        yield _read(message, place=f"{key}[{number}]")


def _read(message: Any, *, place: str) -> Message:
    if not isinstance(message, Mapping):
        raise ConversationError(f"{place} must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ConversationError(f"{place} has the role {role!r}; use one of {', '.join(ROLES)}")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(map(_is_object, calls))):
        raise ConversationError(f"{place} must hold a list of objects under 'tool_calls'")
    if not (_is_text(content) or (content is None and calls)):
        raise ConversationError(f"{place} holds no text under 'content' but {_kind(content)}")
    # Tables have a column for every key of any message, empty where a message lacks it.
    kept = {str(name): value for name, value in message.items() if value is not None}
    return kept | {"role": role, "content": "" if content is None else content}


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_text(content: Any) -> bool:
    """A text, or a list of parts that are text."""
    if isinstance(content, list):
        return all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content)
    return isinstance(content, str)


def _kind(content: Any) -> str:
    if isinstance(content, list):
        return "parts that are not text"
    return "nothing" if content is None else type(content).__name__


def _share_gpt(fields: Mapping[str, Any]) -> Iterator[Message]:
    turns = fields["conversations"]
    if not isinstance(turns, list) or not turns:
        raise ConversationError("must hold a list of turns under 'conversations'")
    if isinstance(fields.get("system"), str) and fields["system"]:
        yield {"role": "system", "content": fields["system"]}
    for number, turn in enumerate(turns):
        place = f"conversations[{number}]"
        if isinstance(turn, Mapping) and "role" in turn:
            yield _read(turn, place=place)
            continue
        yield _turn(turn, place=place)


def _turn(turn: Any, *, place: str) -> Message:
    said = turn.get("value") if isinstance(turn, Mapping) else None
    if not isinstance(said, str):
        raise ConversationError(f"{place} must be an object with from and value")
    speaker = str(turn.get("from")).lower()
    if speaker not in SPEAKERS:
        known = ", ".join(SPEAKERS)
        raise ConversationError(f"{place} is from {speaker!r}; use one of {known}")
    beside = {key: turn[key] for key in ("train", "weight") if turn.get(key) is not None}
    if speaker == "function_call":
        calls = _calls(said, place=place)
        return {"role": "assistant", "content": "", "tool_calls": calls, **beside}
    return {"role": SPEAKERS[speaker], "content": said, **beside}


def _calls(text: str, *, place: str) -> list[Message]:
    try:
        found = json.loads(text)
        calls = found if isinstance(found, list) else [found]
        return [
            {
                "type": "function",
                "function": {"name": call["name"], "arguments": call.get("arguments", {})},
            }
            for call in calls
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConversationError(
            f"{place} is a function_call that is no JSON object with name and arguments"
        ) from error


def _is_learned(message: Message) -> bool:
    skipped = message.get("train") is False or message.get("weight") == 0
    return message["role"] == "assistant" and not skipped


def _tools(value: Any) -> Iterator[Mapping[str, Any]]:
    """A list of schemas, or the JSON of one, as in tables."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value else None
        except ValueError as error:
            raise ConversationError(f"has tools that are not JSON ({error})") from error
    if value is None:
        return
    if not isinstance(value, list) or not all(map(_is_object, value)):
        raise ConversationError("must hold a list of schemas under 'tools'")
    yield from value
