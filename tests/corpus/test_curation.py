# SPDX-License-Identifier: Apache-2.0
"""What the account of a curation says of its files to those who read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from megacpt.corpus.curation import Curated, Curation, curated
from megacpt.corpus.inputs import find_files
from megacpt.errors import DataError
from tests.corpus.cases import write_jsonl
from tests.corpus.curated import decontaminated, step, write_curated

TWO = {"law": ["one", "two"], "web": ["three"]}


def test_each_source_has_the_steps_that_concerned_it(tmp_path: Path) -> None:
    before = step("filter", "old_name")
    write_curated(
        tmp_path,
        [step("deduplicate", "law", "web"), decontaminated("law")],
        texts=TWO,
        history=[before],
    )
    found = Curation.read(tmp_path)
    assert [s.name for s in found.steps_of("law")] == ["filter", "deduplicate", "decontaminate"]
    assert [s.name for s in found.steps_of("web")] == ["filter", "deduplicate"]
    assert all(len(s.counts) == 1 for s in found.steps_of("law"))
    files = curated([str(tmp_path / name / "00000.jsonl") for name in TWO])
    assert [origin.source for origin in files.origins] == ["law", "web"]
    assert {origin.fingerprint for origin in files.origins} == {found.fingerprint}
    law = files.origins[0]
    assert law.steps[0].counts == {
        "documents_in": 9,
        "documents_out": 8,
        "bytes_in": 900,
        "bytes_out": 800,
    }
    assert [file.path for file in law.inputs] == ["raw/law.jsonl"]
    assert Curated.of_json(files.to_json()) == files


def test_other_files_beside_curated_ones_leave_nothing_to_say(tmp_path: Path) -> None:
    write_curated(tmp_path / "out", [step("deduplicate", "law")])
    own = str(write_jsonl(tmp_path / "own.jsonl", ["mine"]))
    path = str(tmp_path / "out" / "law" / "00000.jsonl")
    told: list[str] = []
    found = curated([path, own], notice=told.append)
    assert found.origins == ()
    assert set(found.sums) == {path}
    assert told == [f"{own} comes from no curation, others do: what was done there is not kept."]
    assert curated([own], notice=told.append) == Curated()
    assert len(told) == 1


@pytest.mark.parametrize("change", ["longer", "another file"])
def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path, change: str) -> None:
    write_curated(tmp_path, [step("deduplicate", "law")])
    path = tmp_path / "law" / ("00000.jsonl" if change == "longer" else "mine.jsonl")
    with path.open("a") as stream:
        stream.write('{"text": "more"}\n')
    with pytest.raises(DataError, match=rf"{path.name} is not as .*curation.json says; restore it"):
        curated([str(path)])


def test_the_records_are_no_text(tmp_path: Path) -> None:
    write_curated(tmp_path, [step("deduplicate", "law")])
    (tmp_path / "decontamination.json").write_text("{}")
    told: list[str] = []
    files = find_files([tmp_path], file_format=None, spool=tmp_path, notice=told.append)
    assert [Path(file.path).name for file in files] == ["00000.jsonl"]
    assert "2 records of a curation: curation.json, decontamination.json" in told[0]
