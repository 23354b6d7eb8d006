# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests: what is read of them, and which are refused by which field."""

from __future__ import annotations

from typing import Any

import pytest

from megacpt.serve.errors import ApiError
from megacpt.serve.request import Sampling, read_chat, read_completion

SAID = [{"role": "user", "content": "Hi"}]


def test_a_completion_has_openai_s_defaults() -> None:
    asked = read_completion({"model": "m", "prompt": "Once"})
    assert asked.prompts == ("Once",)
    assert asked.max_tokens == 16
    assert asked.sampling == Sampling(temperature=1.0, top_p=1.0, seed=None)
    assert (asked.stop, asked.stream, asked.with_usage) == ((), False, False)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [(["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_prompts_are_texts_or_tokens(prompt: Any, read: Any) -> None:
    assert read_completion({"prompt": prompt}).prompts == read


def test_a_chat_takes_as_many_tokens_as_there_are() -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    asked = read_chat({"messages": [{"role": "user", "content": parts}], "stop": "\n"})
    assert asked.messages == ({"role": "user", "content": "Hi"},)
    assert asked.max_tokens is None
    assert asked.stop == ("\n",)
    assert read_chat({"messages": SAID, "max_completion_tokens": 5}).max_tokens == 5


@pytest.mark.parametrize(
    "fields", [{"top_p": 0}, {"temperature": 0, "top_p": 0.5}, {"temperature": 0, "seed": 7}]
)
def test_nothing_but_the_likeliest_is_greedy(fields: dict[str, float]) -> None:
    """Whatever else is said, so that such requests are generated together."""
    greedy = Sampling(temperature=0.0, top_p=1.0, seed=None)
    assert read_chat({"messages": SAID, **fields}).sampling == greedy


def test_fields_that_ask_for_nothing_are_taken() -> None:
    neutral = {"n": 1, "presence_penalty": 0, "user": "me", "tools": [], "logprobs": None}
    assert read_chat({"messages": SAID, **neutral}) == read_chat({"messages": SAID})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"n": 2}, "n is not supported here"),
        ({"tools": [{}]}, "tools is not supported"),
        ({"logprobs": True}, "logprobs is not supported"),
        ({"temperature": 3}, r"temperature=3 is outside \[0, 2\]"),
        ({"temperature": "hot"}, "temperature=hot is outside"),
        ({"temperature": True}, "temperature=True is outside"),
        ({"top_p": 1.5}, r"top_p=1.5 is outside \[0, 1\]"),
        ({"max_tokens": 0}, "max_tokens=0 must be a whole number of at least 1"),
        ({"max_tokens": 1.5}, "max_tokens=1.5 must be"),
        ({"seed": "x"}, "seed=x must be a whole number"),
        ({"stop": [""]}, "stop must be a text"),
        ({"stop": list("abcde")}, "stop has 5 texts; give at most 4"),
        ({"stream": "yes"}, "stream must be true or false"),
        ({"stream_options": [1]}, "stream_options must be an object"),
        ({"messages": []}, "messages must be a list"),
        ({"messages": [{"role": "me", "content": ""}]}, r"messages\[0\] needs a role"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content must be a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "may have parts of text alone",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        read_chat({"messages": SAID, **field})


@pytest.mark.parametrize("body", [[], "x", None])
def test_a_body_is_an_object(body: object) -> None:
    with pytest.raises(ApiError, match="must be a JSON object"):
        read_chat(body)


@pytest.mark.parametrize("prompt", [None, [], [""] and [[]], 5, ["a", 1], [True]])
def test_prompts_that_are_none(prompt: object) -> None:
    with pytest.raises(ApiError, match="prompt must be"):
        read_completion({"prompt": prompt})


def test_one_prompt_is_streamed() -> None:
    with pytest.raises(ApiError, match="one prompt can be streamed"):
        read_completion({"prompt": ["a", "b"], "stream": True})


def test_errors_have_openai_s_shape() -> None:
    error = ApiError("no", param="n").body["error"]
    assert error == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "n",
        "code": None,
    }
