#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Versions: datatrove 0.10.1, spacy 3.8.18, Python 3.11.
#
# FineWebQualityFilter drops a document in which fewer than 12 % of the lines end like a sentence. FineWeb
# was made with five signs for that: . ! ? and both straight quotation marks, as C4 has them and as
# C4QualityFilter in the same package still does. Without an argument the filter now takes
# TERMINAL_PUNCTUATION, 159 signs of all scripts: in it of Latin text are . ! ? alone. So direct speech
# that ends with its quotation mark is text without ends of sentences, and goes, by the filter that
# has the name, and with the threshold, of the corpus that kept it; C4's filter, one step before, keeps
# every line of it. The numbers and the name of the reason give no hint.
#
# Seen:
#   ends of sentences of C4QualityFilter:      . ? ! " '
#   of them in TERMINAL_PUNCTUATION (159):     . ? !
#   C4QualityFilter: keeps 10 of 10 lines
#   FineWebQualityFilter(): (False, 'line_punct_ratio')
#   FineWebQualityFilter(stop_chars=the five): True
#
# megacpt's filter.fineweb gives the five by default (tests/curate/filters/test_by_datatrove.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datatrove==0.10.1 regex==2026.11.15 spacy==3.8.18
cat > "$folder/show.py" <<'PY'
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter
from datatrove.pipeline.filters.c4_filters import END_PUNCTUATION
from datatrove.utils.text import TERMINAL_PUNCTUATION

LINES = [
    f'"We shall see what comes of matter {n}," she said to him, "and then we shall all go home."'
    for n in range(10)
]


def document():
    return Document(text="\n".join(LINES), id="speech")


shared = [sign for sign in END_PUNCTUATION if sign in TERMINAL_PUNCTUATION]
print("ends of sentences of C4QualityFilter:", *END_PUNCTUATION)
print(f"of them in TERMINAL_PUNCTUATION ({len(TERMINAL_PUNCTUATION)}):", *shared)
by_c4 = document()
kept = C4QualityFilter().filter(by_c4)
print("C4QualityFilter: keeps", len(by_c4.text.split("\n")), "of", len(LINES), "lines")
by_default = FineWebQualityFilter().filter(document())
as_made = FineWebQualityFilter(stop_chars=END_PUNCTUATION).filter(document())
print("FineWebQualityFilter():", by_default)
print("FineWebQualityFilter(stop_chars=the five):", as_made)
assert shared == [".", "?", "!"], shared
assert kept is True and by_c4.text == document().text
assert by_default == (False, "line_punct_ratio"), by_default
assert as_made is True, as_made
PY
"$folder/venv/bin/python" "$folder/show.py"
