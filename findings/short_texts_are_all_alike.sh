#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# gaoya 0.2.2: every text with fewer words than ngram_range begins at has no n-gram, and texts without
# n-grams count as equal to each other. With shingles of 5 words, as deduplication has them, an index
# finds "Yes." when it is asked for "Paris is in France", and says that their similarity is 1.0; whoever
# drops what is found keeps one of all titles, short answers and lines of a dialogue. A range that begins
# at 1 word, which is another similarity, tells them apart.
#
# Seen:
#   n-grams of 5 words:      "Paris is in France" is like [(0, 'Yes.', 1.0), (1, 'No, thank you.', 1.0)]
#   n-grams of 5 words:      6 short texts, all different: 1 is kept
#   n-grams of 1 to 5 words: 6 short texts, all different: 6 are kept
#
# megacpt compares a text of fewer words than a shingle as one shingle of all its words
# (docs/curation.md, tests/csrc/test_sketch.py).
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gaoya==0.2.2
cd "$folder"
venv/bin/python - <<'PY'
from gaoya.minhash import MinHashStringIndex

TEXTS = ["Yes.", "No, thank you.", "Paris is in France", "forty-two", "Chapter 7", "See above"]


def index(shortest):
    return MinHashStringIndex(hash_size=32, jaccard_threshold=0.8, num_bands=16, band_size=8,
                              num_hashes=128, analyzer="word", lowercase=True,
                              ngram_range=(shortest, 5))


def kept(shortest):
    found, left = index(shortest), []
    for number, text in enumerate(TEXTS):
        if not found.query(text):
            found.insert_document(number, text)
            left.append(text)
    return len(left)


of_five = index(5)
for number, text in enumerate(TEXTS[:2]):
    of_five.insert_document(number, text)
like = sorted(of_five.query(TEXTS[2], return_similarity=True))
told = [(number, TEXTS[number], similarity) for number, similarity in like]
print(f'n-grams of 5 words:      "{TEXTS[2]}" is like {told}')
print(f"n-grams of 5 words:      {len(TEXTS)} short texts, all different: {kept(5)} is kept")
print(f"n-grams of 1 to 5 words: {len(TEXTS)} short texts, all different: {kept(1)} are kept")
assert like == [(0, 1.0), (1, 1.0)] and kept(5) == 1 and kept(1) == len(TEXTS)
PY
