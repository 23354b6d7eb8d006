# SPDX-License-Identifier: Apache-2.0
"""The settings of decontamination."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from megacpt.config.limits import Limits, limited

WORDS = Limits(at_least=2, at_most=100, remedy="use 13, or 2 to 100")


class Action(enum.Enum):
    drop = "drop"
    """Leave the document out."""
    cut = "cut"
    """Take what was found out of its text."""
    mask = "mask"
    """Keep the text, and say of what was found that it is not learned."""
    report = "report"
    """Keep it."""


@dataclass(kw_only=True, slots=True)
class SuiteConfig:
    path: str
    """A task or group of lm-eval by its name, its YAML file, or files, folders and patterns of
    items: JSON lines, Parquet, JSON as BIG-bench has it; of texts each file is an item."""
    question: str = "question"
    """Field of an item; ``a.b`` is b within a."""
    options: str = "choices"
    """Field of what can be chosen from, where there is one."""
    answer: str = "answer"
    """Field of the answer: its text, or the number or letter of an option."""


@dataclass(kw_only=True, slots=True)
class DecontaminateConfig:
    suites: dict[str, SuiteConfig] = field(default_factory=dict)
    """By the names that the account, and whoever asks for it, call them."""
    action: Action = Action.drop
    """What becomes of a document that holds a question, an answer or an option."""
    words: int = limited(13, limits=WORDS)
    """A long part has so many or more, and is looked for in windows of so many: one that no other
    item has is enough, or several that few items have."""
    short_words: int = limited(8, limits=WORDS)
    """The window of shorter parts, of which ``share`` must be found, and of changed long ones."""
    whole_words: int = limited(5, limits=WORDS)
    """A question of at least so many, and fewer than ``short_words``, must be there as a whole, and
    its answer near it, where it has one. Shorter ones are not looked for, and counted."""
    share: float = limited(
        0.5, limits=Limits(above=0, at_most=1, remedy="use a share up to 1, such as 0.5")
    )
    """Of a part's windows, each weighted by how few items have it."""
    edited_share: float = limited(
        0.2, limits=Limits(above=0, at_most=1, remedy="use a share up to 1, such as 0.2")
    )
    """The same, of the short windows of a long part: some of its words may be other ones."""
    common_items: int = limited(
        10, limits=Limits(at_least=1, remedy="use 10, or another positive number")
    )
    """A window that more items of a suite have says nothing: it is the words of its prompts."""
    hits: int = limited(10_000, limits=Limits(at_least=0, remedy="use 10000"))
    """Listed in decontamination.json; the rest are counted."""
