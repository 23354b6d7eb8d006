# SPDX-License-Identifier: Apache-2.0
"""Lines that are no documents, by the policies of ``megacpt tokenize``; its files are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megacpt.corpus import pieces
from megacpt.corpus.documents import OnError
from megacpt.corpus.workers.share import Share
from megacpt.curate.distributed.stages import make_share
from megacpt.curate.pipeline import Watcher
from megacpt.errors import DataError
from megacpt.shards.tokenize import tokenize
from tests.corpus.cases import TINY
from tests.curate import steps

BAD = [b'{"text": "cut', b'{"body": "other"}', b'["text"]', b'{"text": 3}', b'{"text": "\xff"}']
KINDS = {"broken_json": 12, "no_key": 12, "no_object": 12, "no_text": 12, "invalid_utf8": 12}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bad line of each kind in turn after every other line, in files of several pieces."""
    steps.use(monkeypatch, folder=tmp_path, step=steps.shout)
    steps.write_corpus(tmp_path, files=2, count=60)
    number = 0
    for path in sorted((tmp_path / "law").iterdir()):
        mixed = []
        for n, line in enumerate(path.read_bytes().splitlines()):
            mixed.append(line)
            if n % 2:
                mixed.append(BAD[number % len(BAD)])
                number += 1
        path.write_bytes(b"\n".join(mixed) + b"\n")
    return tmp_path


def quarantined(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_as_tokenize_sets_them_aside(corpus: Path) -> None:
    found = steps.run("on_error=quarantine", "workers=2")
    counts = found.steps[0].counts
    assert counts["law"]["errors"] == KINDS
    tokenize(
        ["law"],
        tokenizer=TINY,
        output_prefix="shard",
        on_error=OnError.quarantine,
        piece_size=pieces.PIECE_BYTES_MIN,
    )
    kept = quarantined(corpus / "out" / "quarantine.jsonl")
    assert kept == quarantined(corpus / "shard.quarantine.jsonl")
    assert len(kept) == sum(KINDS.values())
    # The places are those in the files.
    for row in kept:
        line = Path(str(row["file"])).read_bytes().splitlines()[int(str(row["line"])) - 1]
        assert line in BAD


def test_machines_that_share_the_pieces_set_the_same_aside(corpus: Path) -> None:
    steps.run("on_error=quarantine")
    (corpus / "out").rename(corpus / "alone")
    for _ in range(5):
        for number in range(3):
            config = steps.settings("on_error=quarantine")
            make_share(config, share=Share(number, 3), watcher=Watcher())
    steps.run("on_error=quarantine")
    assert steps.tree(corpus / "out") == steps.tree(corpus / "alone")


def test_stop_names_the_first_and_leaves_no_output(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"law/0.jsonl:3"):
        steps.run()
    assert not (corpus / "out").exists()


def test_skip_counts_them(corpus: Path) -> None:
    with (corpus / "late.jsonl").open("ab") as stream:
        stream.write(BAD[0])
    told: list[str] = []
    found = steps.run("on_error=skip", watcher=Watcher(notice=told.append))
    assert found.steps[0].counts["law"]["errors"] == KINDS
    # Of a source that no step concerns there is no account.
    assert told == ["late: 1 bad lines left out (1 broken_json)."]
    assert not (corpus / "out" / "quarantine.jsonl").exists()


def test_pieces_with_bad_lines_are_made_again_under_another_policy(corpus: Path) -> None:
    config = steps.settings("on_error=skip")
    for _ in range(2):
        make_share(config, share=Share(0, 2), watcher=Watcher())
    with pytest.raises(DataError, match=r"law/0.jsonl:3"):
        steps.run()
    steps.run("on_error=quarantine")
    assert len(quarantined(corpus / "out" / "quarantine.jsonl")) == sum(KINDS.values())


def test_without_bad_lines_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.use(monkeypatch, folder=tmp_path)
    steps.write_corpus(tmp_path, files=1, count=10)
    steps.run("on_error=quarantine")
    assert not (tmp_path / "out" / "quarantine.jsonl").exists()
