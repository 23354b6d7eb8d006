#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# datatrove 0.10.1, spaCy 3.8.18, xxhash 3.8.2, Python 3.11.
#
# Decontamination by n-grams normalises items and text alike: case, punctuation, and every number is 0,
# so that 12 and 3.5 are the same word. An answer that writes out a series is then n-grams of nothing
# but "0 0 0 ...", and any text with as many numbers in a row has them: a table, a glyph, a list of
# codes. The document is dropped as contaminated, and the n-gram in its metadata is the only hint. GSM8K
# has such answers, and of the first 316 licences of licensedcode-data 32.1.0 its test set drops one for
# the numbers in it. Windows with words and numbers meet, too, where
# only the numbers differ: another question of the same template counts as this one.
#
# Seen:
#   a table of other numbers    dropped for '0 0 0 0 0 0 0 0 0 0 0 0'
#   the template, other numbers dropped for 'a farmer has 0 hens and sells 0 eggs a day for'
#   words of their own          kept
#   numbers as they are         kept kept kept
#
# megacpt decontaminate keeps numbers as they are, and windows of few different words are no evidence
# (megacpt/curate/decontaminate/windows.py, tests/curate/decontaminate/test_search.py).

set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q datatrove==0.10.1 spacy==3.8.18 xxhash==3.8.2 orjson regex tldextract
cat > run.py <<'PY'
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import (
    NGramsDecontConfig,
    NGramsDecontFilter,
    NGramsDecontIndexer,
)
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import load_word_tokenizer

QUESTION = "A farmer has 16 hens and sells 12 eggs a day for 2 dollars each; what is left?"
ANSWER = "He counts 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42: that is 42."
TEXTS = {
    "a table of other numbers": "Year by year: 812 77 5.25 1 409 33 12 6 71 88 90 2.5 14 19 and so on.",
    "the template, other numbers": "A farmer has 7 hens and sells 5 eggs a day for 9 dollars each.",
    "words of their own": "Hens lay eggs, and farmers sell them by the dozen on market days.",
}


def found(text, *, config):
    indexer = object.__new__(NGramsDecontIndexer)  # Its __init__ wants lighteval.
    indexer.config = config
    indexer.tokenizer = load_word_tokenizer("en")
    indexer.hash_func = create_hash_func(config.hash_config)
    judge = NGramsDecontFilter("index", config=config, language="en")
    judge._index_hashes = dict.fromkeys(indexer.compute_hashes(ANSWER, QUESTION), "farm")
    document = Document(text=text, id="0")
    if judge.filter(document) is True:
        return "kept"
    return f"dropped for {document.metadata['contaminated_ngram']!r}"


usual = NGramsDecontConfig(n_grams=12, find_query_ngrams=True)
for name, text in TEXTS.items():
    print(f"{name:<27} {found(text, config=usual)}")
exact = NGramsDecontConfig(
    n_grams=12, find_query_ngrams=True, norm_config=TextNormConfig(norm_numbers=False)
)
print(f"{'numbers as they are':<27}", *(found(text, config=exact) for text in TEXTS.values()))
PY
mkdir index
venv/bin/python run.py 2>/dev/null | tee seen.txt
cat > expected.txt <<'TXT'
a table of other numbers    dropped for '0 0 0 0 0 0 0 0 0 0 0 0'
the template, other numbers dropped for 'a farmer has 0 hens and sells 0 eggs a day for'
words of their own          kept
numbers as they are         kept kept kept
TXT
cmp seen.txt expected.txt
