# SPDX-License-Identifier: Apache-2.0
"""datatrove's decontamination of texts, for decontamination.py: run by a Python that has it.

    pip install datatrove==0.10.1 spacy==3.8.18 'xxhash<4' orjson regex tldextract

Its filter is used as it is, and its indexer's hashes; the indexer itself reads only tasks of
lighteval.
Windows of 13 words, in questions too, where it does not look for any unless asked.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    n_grams: Any = importlib.import_module("datatrove.pipeline.decont.n_grams")
    data: Any = importlib.import_module("datatrove.data")
    hashing: Any = importlib.import_module("datatrove.utils.hashing")
    tokenizers: Any = importlib.import_module("datatrove.utils.word_tokenizers")
    work = json.loads(Path(sys.argv[1]).read_text())
    config = n_grams.NGramsDecontConfig(n_grams=13, find_query_ngrams=True)
    indexer = object.__new__(n_grams.NGramsDecontIndexer)  # Its __init__ wants lighteval.
    indexer.config = config
    indexer.tokenizer = tokenizers.load_word_tokenizer("en")
    indexer.hash_func = hashing.create_hash_func(config.hash_config)
    judge = n_grams.NGramsDecontFilter(tempfile.mkdtemp(), config=config, language="en")
    judge._index_hashes = {
        found: "suite"
        for question, answer in work["items"]
        for found in indexer.compute_hashes(answer, question)
    }
    started_s = time.process_time()
    found = {}
    for number, text in enumerate(work["texts"]):
        document = data.Document(text=text, id=str(number))
        if judge.filter(document) is not True:
            found[number] = document.metadata["contaminated_ngram"]
    print(json.dumps({"found": found, "busy_s": time.process_time() - started_s}))


if __name__ == "__main__":
    main()
