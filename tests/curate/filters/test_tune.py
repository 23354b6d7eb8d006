# SPDX-License-Identifier: Apache-2.0
"""What each limit would be compared with, in a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("datatrove")
pytest.importorskip("spacy")

from megacpt.curate.config import CurateConfig, read_config
from megacpt.curate.filters.by_datatrove import DatatroveRule
from megacpt.curate.filters.settings import GopherConfig
from megacpt.curate.filters.tune import QUANTILES, Tuning, tune
from tests.corpus.cases import write_jsonl
from tests.curate.filters.cases import TEXTS, WITHOUT_WORDS

TEXT = [text for name, text in TEXTS.items() if name not in WITHOUT_WORDS]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    half = len(TEXT) // 2
    for name, texts in (("a", TEXT[:half]), ("b", TEXT[half:])):
        write_jsonl(tmp_path / f"{name}.jsonl", texts)
    return tmp_path


def config(raw: Path, *words: str, files: str = "*.jsonl") -> CurateConfig:
    base = [f"output={raw / 'out'}", f"sources.law.files={raw / files}", "filter={}"]
    return read_config(None, overrides=[*base, *words])


def rows(tuning: Tuning) -> dict[str, Any]:
    return {row.name: row for row in tuning.measured}


def test_shares_are_those_that_each_limit_alone_leaves_out(raw: Path) -> None:
    found = tune(config(raw, "filter.repetition=null"))
    assert found.documents == len(TEXT)
    off = dict.fromkeys(GopherConfig.__dataclass_fields__) | {
        "stop_words": "the,be,to,of,and,that,have,with"
    }
    for name in ("min_doc_words", "max_avg_word_length", "max_symbol_word_ratio", "min_stop_words"):
        limit = getattr(GopherConfig(), name)
        rule = DatatroveRule(GopherConfig(**off | {name: limit}), language="eng")
        row = rows(found)[f"gopher.{name}"]
        dropped = sum(bool(rule(text).dropped) for text in TEXT)
        assert row.beyond == pytest.approx(dropped / len(TEXT)), name
        assert row.beyond > 0


def test_quantiles_are_values_of_documents(raw: Path) -> None:
    row = rows(tune(config(raw)))["length.min_characters"]
    lengths = sorted(len(text.strip()) for text in TEXT)
    places = np.ceil(np.array(QUANTILES) * len(lengths)).astype(int) - 1
    assert row.quantiles == tuple(float(lengths[place]) for place in places)
    assert (row.sign, row.limit, row.beyond) == ("<", 1, 0)


def test_a_sample_is_the_same_whatever_the_order(raw: Path) -> None:
    some = tune(config(raw, files="a.jsonl"), sample=10)
    assert some.documents == 10
    lines = (raw / "a.jsonl").read_text().splitlines()
    (raw / "c.jsonl").write_text("\n".join(reversed(lines)))
    assert tune(config(raw, files="c.jsonl"), sample=10) == some
    assert sorted(path.name for path in raw.iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_the_report_is_a_line_for_each_limit(raw: Path) -> None:
    lines = list(tune(config(raw, "filter.gopher.min_doc_words=null", "filter.c4={}")).lines())
    assert lines[0].split()[:3] == ["of", str(len(TEXT)), "documents"]
    by_name = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert len(by_name["gopher.min_doc_words"]) == len(QUANTILES)
    assert by_name["gopher.max_doc_words"][-3:] == [">", "100000", "0.00%"]
    assert by_name["c4.min_num_sentences"][-3:-1] == ["<", "5"]
    assert max(map(len, lines)) <= 120
