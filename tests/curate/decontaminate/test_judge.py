# SPDX-License-Identifier: Apache-2.0
"""What is left of a text that parts of suites are cut out of."""

from __future__ import annotations

import pytest

from megacpt.corpus.documents import Passage
from megacpt.curate.decontaminate.items import ItemSuite, SuiteItem
from megacpt.curate.decontaminate.judge import Decontamination
from megacpt.curate.decontaminate.settings import Action, DecontaminateConfig
from megacpt.curate.documents import Document, DocumentBatch
from tests.curate.decontaminate.cases import Maker

MAKER = Maker(21)
OUTER, INNER = MAKER.words(20).split(), MAKER.words(15)
TORN = [f" {' '.join(OUTER[n : n + 7])} " for n in (0, 7, 14)]
"""Of too few words each."""
SUITE = ItemSuite(
    name="quiz",
    source="",
    items=(SuiteItem(question=(" ".join(OUTER),)), SuiteItem(question=(INNER,))),
)


def left_of(text: str) -> str | None:
    """None: the document is dropped."""
    settings = DecontaminateConfig(action=Action.cut)
    judge = Decontamination(suites=(SUITE,), settings=settings).open()
    passage = Passage(extent=0, first_line=1, num_lines=1, content=[], bytes_read=0)
    documents = [Document({"text": text, "kept": 1})]
    (verdict,) = judge(DocumentBatch(piece=0, first=0, documents=documents, passage=passage))
    if verdict.drops:
        return None
    left = verdict.document or documents[0]
    assert left.fields["kept"] == 1
    return left.text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Nothing\n of it ", "Nothing\n of it "),
        (f"Before\n\n{INNER}\n\nafter", "Before\n\nafter"),
        (f"Before {INNER}\nafter", "Before\nafter"),
        (f"  {INNER}! And {INNER}?\n", "! And ?\n"),
        (INNER.upper(), None),
        (f"{INNER}\n{INNER}", None),
        # What the cut brings together is a question, too.
        (f"A {INNER.join(TORN)} z", "A z"),
    ],
)
def test_cuts(text: str, left: str | None) -> None:
    assert left_of(text) == left
