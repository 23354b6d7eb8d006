# SPDX-License-Identifier: Apache-2.0
"""No paragraph that repeats held-out text stays in training text, and little else goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megacpt.demo.overlap import SourcedText, shingles, without_near_duplicates

HELD = SourcedText(
    source="held", text="The quick brown fox jumps over the lazy dog near the river."
)
WORDS = st.lists(st.sampled_from("abcdefg"), max_size=30).map(" ".join)


def document(text: str) -> SourcedText:
    return SourcedText(source="s", text=text)


def test_case_and_punctuation_do_not_hide_a_copy() -> None:
    assert shingles("One two, three FOUR five!") == shingles("one TWO three -- four five")
    assert len(shingles("one two three four")) == 0
    assert len(shingles("one two three four five six")) == 2


def test_a_near_copy_goes_and_its_neighbours_stay() -> None:
    near = "The quick brown fox jumps over the lazy cat."
    kept, overlap = without_near_duplicates(
        [document(f"Before.\n\n{near}\n\nAfter.")], heldout=[HELD]
    )
    assert [d.text for d in kept] == ["Before.\n\nAfter."]
    assert (overlap.paragraphs, overlap.removed) == (3, 1)
    assert overlap.shared_before > 0.4
    assert overlap.shared_after == 0.0


def test_a_document_of_copies_alone_goes() -> None:
    assert without_near_duplicates([document(HELD.text)], heldout=[HELD])[0] == []


def test_a_shared_phrase_in_a_long_paragraph_stays() -> None:
    text = "We saw that the quick brown fox jumps whenever somebody else had opened a gate."
    kept, overlap = without_near_duplicates([document(text)], heldout=[HELD])
    assert [d.text for d in kept] == [text]
    assert 0 < overlap.shared_before == overlap.shared_after < 0.2


@given(training=st.lists(WORDS, max_size=6), heldout=st.lists(WORDS, max_size=3))
def test_what_is_left_is_no_near_duplicate(training: list[str], heldout: list[str]) -> None:
    held = [document(text) for text in heldout]
    known = frozenset[int]().union(*map(shingles, heldout))
    kept, overlap = without_near_duplicates([document(t) for t in training], heldout=held)
    for part in (p for d in kept for p in d.text.split("\n\n")):
        found = shingles(part)
        assert not found or len(found & known) < 0.5 * len(found)
    assert overlap.shared_after <= overlap.shared_before
    assert without_near_duplicates(kept, heldout=held)[1].removed == 0
