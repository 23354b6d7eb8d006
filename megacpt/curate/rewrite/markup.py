# SPDX-License-Identifier: Apache-2.0
"""Texts that are conversations written down with the marks of a chat template."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megacpt.curate.rewrite.shapes import ROLES, ShapedRecord, dialogue_of

AHEAD_MAX = 300
"""Characters that may stand before the first mark, as Alpaca's sentence about the task does."""
_ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end|endoftext|end_of_text|begin_of_text)\|>|</?s>|<bos>|<eos>"
    r"|<end_of_turn>"
)
_NAMED = "Human|User|Assistant|System|Instruction|Input|Response|Question|Answer"
_MARKS = (
    re.compile(r"<\|im_start\|>[ ]*(\w+)[^\n]*\n?"),
    re.compile(r"<\|start_header_id\|>[ ]*(\w+)[ ]*<\|end_header_id\|>"),
    re.compile(r"<start_of_turn>(\w+)\n?"),
    re.compile(r"<\|(system|user|assistant)\|>"),
    re.compile(r"(\[INST\]|\[/INST\]|<<SYS>>|<</SYS>>)"),
    re.compile(rf"###[ ]*({_NAMED})(?::|[ ]*$)", re.MULTILINE),
    re.compile(r"^(Human|User|Assistant|System|Question|Answer):", re.MULTILINE),
)
_HINT = re.compile("|".join(mark.pattern for mark in _MARKS), re.MULTILINE)
_LLAMA_2 = {"[INST]": "user", "[/INST]": "assistant", "<<SYS>>": "system", "<</SYS>>": "user"}


def read_markup(text: str) -> ShapedRecord | None:
    """The turns of a text that someone begins to ask, and someone answers, by the same marks."""
    if not _HINT.search(text, 0, AHEAD_MAX + 100):
        return None
    for mark in _MARKS:
        marks = list(mark.finditer(text))
        if not marks or marks[0].start() > AHEAD_MAX:
            continue
        turns = list(_turns(text, marks=marks))
        roles = [turn["role"] for turn in turns if turn["text"]]
        if "user" in roles and "assistant" in roles[roles.index("user") :]:
            return dialogue_of(turns, used=frozenset())
    return None


def _turns(text: str, *, marks: list[re.Match[str]]) -> Iterator[dict[str, str]]:
    yield {"role": "system", "text": _cleaned(text[: marks[0].start()])}
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        said = mark.group(1)
        role = _LLAMA_2.get(said) or ROLES.get(said.lower(), said.lower())
        yield {"role": role, "text": _cleaned(text[mark.end() : end])}


def _cleaned(said: str) -> str:
    return _ENDS.sub("", said).strip()
