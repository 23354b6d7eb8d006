# SPDX-License-Identifier: Apache-2.0
"""The step beside datatrove's own pipeline on the same documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("spacy")

from megacpt.corpus.curation import Curation
from megacpt.curate import pipeline
from megacpt.curate.config import read_config
from megacpt.errors import ConfigError
from tests.corpus.cases import write_jsonl
from tests.curate.filters.cases import TEXTS, WITHOUT_WORDS


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    lines = [
        json.dumps({"id": name, "text": text})
        for name, text in TEXTS.items()
        if name not in WITHOUT_WORDS
    ]
    (folder / "law.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def curate(raw: Path, *words: str, output: Path, source: str = "law.jsonl", **how: Any) -> Curation:
    config = read_config(
        None,
        overrides=[
            f"output={output}",
            f"sources.law.files={raw / source}",
            "form=jsonl",
            "filter={}",
            *words,
        ],
    )
    return pipeline.curate(config, **how)


def left(output: Path, *, source: str = "law") -> dict[str, str]:
    lines = (
        line for path in sorted((output / source).iterdir()) for line in path.open(encoding="utf-8")
    )
    return {record["id"]: record["text"] for record in map(json.loads, lines)}


def by_datatrove(raw: Path, *, steps: list[Any], scratch: Path) -> tuple[dict[str, str], set[Any]]:
    """What its pipeline leaves, and each dropped document's reason."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    for number, step in enumerate(steps):
        step.exclusion_writer = JsonlWriter(str(scratch / f"out{number}"), compression=None)
    writer = JsonlWriter(str(scratch / "left"), compression=None)
    LocalPipelineExecutor(
        [JsonlReader(str(raw), glob_pattern="law.jsonl"), *steps, writer],
        logging_dir=str(scratch / "logs"),
    ).run()
    dropped = {
        (record["id"], record["metadata"]["filter_reason"])
        for path in scratch.glob("out*/*")
        for record in map(json.loads, path.open())
    }
    return {
        r["id"]: r["text"] for r in map(json.loads, next((scratch / "left").iterdir()).open())
    }, dropped


def test_the_pipeline_of_fineweb(raw: Path, tmp_path: Path) -> None:
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    steps = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(stop_chars=tuple(".'\"!?")),
    ]
    expected, dropped = by_datatrove(raw, steps=steps, scratch=tmp_path / "datatrove")
    words = ["filter.c4.filter_no_terminal_punct=false", "filter.fineweb={}"]
    found = curate(raw, *words, output=tmp_path / "out")
    assert left(tmp_path / "out") == expected
    rules = found.steps[0].counts["law"]["rules"]
    reasons = [reason for _, reason in dropped]
    assert {name: rule["dropped"] for name, rule in rules.items() if name != "c4_lines"} == {
        reason: reasons.count(reason) for reason in reasons
    }
    for reason, rule in rules.items():
        ids = {example["id"] for example in rule["examples"]}
        assert reason == "c4_lines" or ids <= {name for name, why in dropped if why == reason}
    # Without C4's lines, or with another limit, it is another corpus.
    for other in (["filter.fineweb={}"], [*words, "filter.gopher.min_doc_words=200"]):
        curate(raw, *other, output=tmp_path / "other" / other[-1])
        assert left(tmp_path / "other" / other[-1]) != expected


def test_idempotent_and_the_same_in_any_order(raw: Path, tmp_path: Path) -> None:
    words = ["filter.c4={}", "filter.pii={}"]
    curate(raw, *words, output=tmp_path / "once")
    once = left(tmp_path / "once")
    curate(tmp_path / "once", *words, output=tmp_path / "twice", source="law")
    assert left(tmp_path / "twice") == once
    lines = (raw / "law.jsonl").read_text().splitlines()
    for n, part in enumerate((lines[::2][::-1], lines[1::2])):
        (tmp_path / f"part{n}.jsonl").write_text("\n".join(part))
    curate(tmp_path, *words, output=tmp_path / "mixed", source="part*.jsonl")
    assert left(tmp_path / "mixed") == once


def test_what_was_done_to_a_document_is_counted_by_each_rule(tmp_path: Path) -> None:
    text = TEXTS["scripts"].replace("with costs.", "with costs: a@b.org, 8.8.8.8.", 1)
    write_jsonl(tmp_path / "law.jsonl", [text, TEXTS["prose"], " ", "?", TEXTS["short"]])
    words = ["filter.c4={}", "filter.pii={}", "filter.gopher=null", "filter.repetition=null"]
    found = curate(tmp_path, *words, output=tmp_path / "out")
    rules = found.steps[0].counts["law"]["rules"]
    assert {name: (rule["documents"], rule["dropped"]) for name, rule in rules.items()} == {
        "c4_lines": (1, 0),
        "pii_email": (1, 0),
        "pii_ip": (1, 0),
        "too_short": (1, 1),
        "no_words": (1, 1),
        "too_few_sentences": (1, 1),
    }
    assert rules["too_short"]["examples"][0]["value"] == 0
    [example] = rules["pii_ip"]["examples"]
    assert "email@example.com, 192.0.2.1" in example["after"]
    assert found.steps[0].settings["versions"].keys() == {"datatrove", "spacy"}


def test_named_sources_alone_and_never_what_is_measured_with(raw: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "web.jsonl", ["too short"])
    more = [
        f"sources.web.files={tmp_path / 'web.jsonl'}",
        f"sources.late.files={tmp_path / 'web.jsonl'}",
        "sources.late.kind=heldout",
    ]
    curate(raw, *more, output=tmp_path / "all")
    assert [len(left(tmp_path / "all", source=name)) for name in ("web", "late")] == [0, 1]
    curate(raw, *more, "filter.sources=law", output=tmp_path / "law")
    assert len(left(tmp_path / "law", source="web")) == 1
    with pytest.raises(ConfigError, match=r"filter.sources=lav names lav, and the sources are law"):
        curate(raw, "filter.sources=lav", output=tmp_path / "none")
    assert not (tmp_path / "none").exists()
