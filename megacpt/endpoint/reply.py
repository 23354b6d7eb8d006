# SPDX-License-Identifier: Apache-2.0
"""The text of a reply in OpenAI's form, and why it may be of no use."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


class Reply(NamedTuple):
    text: str
    problem: str = ""
    """Why it is of no use."""


def read_chat_reply(content: Any) -> Reply:
    """Without the thoughts that it may begin with; LookupError or TypeError: it is no reply."""
    choice = content["choices"][0]
    said = choice["message"].get("content") or ""
    if isinstance(said, list):
        said = "".join(part.get("text", "") for part in said)
    text = _THOUGHT.sub("", said, count=1).strip() if "<think>" in said[:100] else said.strip()
    if choice.get("finish_reason") == "length":
        return Reply(text, problem="reply over max_tokens")
    text.encode("utf-8")  # JSON can escape half a surrogate pair.
    return Reply(text, problem="" if text else "empty reply")
