# SPDX-License-Identifier: Apache-2.0
"""The body of a request, checked field by field: what this server cannot do is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megacpt.serve.errors import ApiError

TEMPERATURE_MAX = 2.0
STOPS_MAX = 4
COMPLETION_TOKENS = 16
"""What OpenAI's /v1/completions writes where ``max_tokens`` is not given."""
SAMPLED = ("temperature", "top_p", "seed", "stop", "stream", "stream_options", "max_tokens")
OF_COMPLETIONS = frozenset({"model", "prompt", *SAMPLED})
OF_CHAT = frozenset({"model", "messages", "max_completion_tokens", *SAMPLED})
SAYS_NOTHING = frozenset({"user", "metadata", "store"})
"""Fields that change no answer."""
NEUTRAL: Mapping[str, object] = {"n": 1, "best_of": 1, "response_format": {"type": "text"}}
"""Values that ask for nothing beyond what is done anyway."""
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """``temperature`` 0: the likeliest token each time, and nothing is drawn. ``seed``: None draws
    other tokens each time."""

    temperature: float
    top_p: float
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A prompt or messages, one of them. ``max_tokens``: None for as many as the context holds."""

    prompts: tuple[str | tuple[int, ...], ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()
    max_tokens: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    stream: bool
    with_usage: bool
    """Also say the number of tokens at the end of a stream."""


def read_completion(body: object) -> Asked:
    fields = _fields(body, known=OF_COMPLETIONS)
    common = _common(fields)
    if common["max_tokens"] is None:
        common["max_tokens"] = COMPLETION_TOKENS
    asked = Asked(prompts=_prompts(fields.get("prompt")), **common)
    if asked.stream and len(asked.prompts) > 1:
        raise ApiError("one prompt can be streamed at a time; send one, or stream=false.")
    return asked


def read_chat(body: object) -> Asked:
    fields = _fields(body, known=OF_CHAT)
    newer = fields.pop("max_completion_tokens", None)
    if newer is not None:
        fields["max_tokens"] = newer
    return Asked(messages=_messages(fields.get("messages")), **_common(fields))


def _fields(body: object, *, known: frozenset[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object.")
    for name, value in body.items():
        asks_nothing = name in SAYS_NOTHING or not value or NEUTRAL.get(name) == value
        if name not in known and not asks_nothing:
            raise ApiError(
                f"{name} is not supported here; leave it out, or serve the model with vLLM.",
                param=name,
            )
    return {name: value for name, value in body.items() if name in known and value is not None}


def _common(fields: Mapping[str, Any]) -> dict[str, Any]:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise ApiError("stream_options must be an object.", param="stream_options")
    return {
        "max_tokens": _whole(fields, name="max_tokens", least=1),
        "sampling": _sampling(fields),
        "stop": _stops(fields.get("stop", [])),
        "stream": _flag(fields.get("stream", False), name="stream"),
        "with_usage": _flag(options.get("include_usage", False), name="stream_options"),
    }


def _sampling(fields: Mapping[str, Any]) -> Sampling:
    temperature = _number(fields, name="temperature", default=1.0, most=TEMPERATURE_MAX)
    top_p = _number(fields, name="top_p", default=1.0, most=1.0)
    seed = _whole(fields, name="seed", least=None)
    if temperature == 0 or top_p == 0:  # Nothing but the likeliest token is left.
        return Sampling(temperature=0.0, top_p=1.0, seed=None)
    return Sampling(temperature=temperature, top_p=top_p, seed=seed)


def _number(fields: Mapping[str, Any], *, name: str, default: float, most: float) -> float:
    value = fields.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= most:
        raise ApiError(f"{name}={value} is outside [0, {most:g}].", param=name)
    return float(value)


def _whole(fields: Mapping[str, Any], *, name: str, least: int | None) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or (least is not None and value < least)
    ):
        rule = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ApiError(f"{name}={value} must be {rule}.", param=name)
    return value


def _flag(value: object, *, name: str) -> bool:
    if not isinstance(value, bool):
        raise ApiError(f"{name} must be true or false.", param=name)
    return value


def _stops(value: object) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(s, str) and s for s in found):
        raise ApiError("stop must be a text, or a list of texts.", param="stop")
    if len(found) > STOPS_MAX:
        raise ApiError(f"stop has {len(found)} texts; give at most {STOPS_MAX}.", param="stop")
    return tuple(found)


def _prompts(value: object) -> tuple[str | tuple[int, ...], ...]:
    """One or several, each a text or token ids."""
    found = [value] if isinstance(value, str) or _is_ids(value) else value
    if not isinstance(found, list) or not found:
        raise ApiError("prompt must be a text, token ids, or a list of them.", param="prompt")
    for prompt in found:
        if not isinstance(prompt, str) and not _is_ids(prompt):
            raise ApiError("prompt must be a text, token ids, or a list of them.", param="prompt")
    return tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in found)


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int for i in value)


def _messages(value: object) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise ApiError("messages must be a list of at least one message.", param="messages")
    return tuple(_message(said, number=n) for n, said in enumerate(value))


def _message(said: object, *, number: int) -> Mapping[str, str]:
    where = f"messages[{number}]"
    if not isinstance(said, dict) or said.get("role") not in ROLES:
        raise ApiError(f"{where} needs a role, one of {', '.join(ROLES)}.", param=where)
    content = said.get("content")
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, dict) else None for p in content]
        if not all(isinstance(part, str) for part in parts):
            raise ApiError(f"{where}.content may have parts of text alone.", param=where)
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise ApiError(f"{where}.content must be a text.", param=where)
    return {"role": said["role"], "content": content}
