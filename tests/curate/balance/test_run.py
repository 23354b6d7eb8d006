# SPDX-License-Identifier: Apache-2.0
"""Sources are balanced by ratio and budgets; a run of the blend takes what was planned."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import xxhash
import yaml

from megacpt.cli import main
from megacpt.cluster.prepare import check
from megacpt.config.compose import compose
from megacpt.corpus.curation import Curation
from megacpt.corpus.inputs import find_files
from megacpt.curate.balance.run import run
from megacpt.curate.config import read_config
from megacpt.curate.context import Context
from megacpt.curate.parts import PartForm
from megacpt.curate.pipeline import curate
from megacpt.curate.sources import Corpus, Kind, TextSource
from megacpt.curate.work import Reading
from megacpt.errors import ConfigError
from megacpt.plan.plan import Plan
from megacpt.shards.tokenize import tokenize
from tests.corpus.cases import TINY, write_jsonl
from tests.support import write_model_folder

WORDS = [
    "law",
    "court",
    "land",
    "right",
    "duty",
    "of",
    "the",
    "and",
    "to",
    "a",
    "in",
    "judge",
    "held",
    "case",
    "party",
]


def texts(count: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(rng.choices(WORDS, k=rng.randint(5, 60))) + f" {seed}.{n}" for n in range(count)
    ]


LAW, WEB, BOOKS = texts(300, seed=1), texts(1500, seed=2), texts(200, seed=3)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name, content in (("law", LAW), ("web", WEB), ("books", BOOKS)):
        write_jsonl(tmp_path / f"{name}.jsonl", content)
    return tmp_path


def balanced(raw: Path, *more: str, output: str = "out", **sources: str) -> Curation:
    """``sources``: name -> kind; files are NAME.jsonl."""
    words = [f"output={raw / output}", "form=jsonl", "balance={}"]
    for name, kind in (sources or {"law": "domain", "web": "general"}).items():
        words += [f"sources.{name}.files={raw / name}.jsonl", f"sources.{name}.kind={kind}"]
    return curate(read_config(None, overrides=[*words, *more]))


def left(folder: Path) -> list[str]:
    lines = [line for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]
    return [json.loads(line)["text"] for line in lines]


def portions(curation: Curation) -> dict[str, Any]:
    found: dict[str, Any] = curation.steps[-1].findings["portions"]
    return found


def size(content: list[str]) -> int:
    return sum(len(text.encode()) for text in content)


def lowest(content: list[str], *, num_bytes: float) -> list[str]:
    """Texts with the smallest hashes of their ids, in that order, up to so many bytes."""
    kept, total = [], 0
    for text in sorted(content, key=lambda t: xxhash.xxh3_64_intdigest(identity(t).encode())):
        total += len(text.encode())
        if total > num_bytes:
            break
        kept.append(text)
    return kept


def identity(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def test_general_text_is_sampled_down_to_the_ratio(raw: Path) -> None:
    found = balanced(raw, "balance.ratio=4")
    assert left(raw / "out" / "law") == LAW
    kept = left(raw / "out" / "web")
    wanted = size(LAW) / 4
    twin = lowest(WEB, num_bytes=wanted)
    # What is kept are the documents with the lowest hashes, and nearly as much as is wanted.
    assert set(kept) == set(twin[: len(kept)])
    assert 0.9 * wanted < size(kept) <= wanted
    assert portions(found)["web"]["in_run"] == round(wanted)
    assert found.steps[-1].findings["ratio"] == pytest.approx(4)
    counts = found.steps[-1].counts["web"]
    assert (
        counts["documents_in"] - counts["documents_out"]
        == counts["rules"]["sampled_down"]["dropped"]
    )


def test_what_is_kept_depends_on_the_documents_alone(raw: Path) -> None:
    balanced(raw)
    write_jsonl(raw / "web.jsonl", WEB[::-1])
    balanced(raw, "workers=3", output="again")
    assert sorted(left(raw / "again" / "web")) == sorted(left(raw / "out" / "web"))
    # Less of it is a part of more of it.
    balanced(raw, "balance.ratio=18", output="less")
    assert set(left(raw / "less" / "web")) < set(left(raw / "again" / "web"))


def test_what_is_balanced_stays_so(raw: Path) -> None:
    balanced(raw, "balance.ratio=5")
    for name in ("law", "web"):
        (raw / f"{name}.jsonl").write_bytes((raw / "out" / name / "00000.jsonl").read_bytes())
    balanced(raw, "balance.ratio=5", output="again")
    for name in ("law", "web"):
        assert left(raw / "again" / name) == left(raw / "out" / name)


def test_budgets_become_epochs_up_to_the_cap(raw: Path) -> None:
    found = balanced(
        raw,
        "balance.sources.law.epochs=6",
        f"balance.sources.books.amount={size(BOOKS) // 2}",
        "balance.ratio=8",
        law="domain",
        books="domain",
        web="general",
    )
    law, books, web = (portions(found)[name] for name in ("law", "books", "web"))
    assert law["epochs"] == pytest.approx(4)  # the cap
    assert books["in_run"] == size(BOOKS) // 2
    assert 0.9 * books["in_run"] < size(left(raw / "out" / "books")) <= books["in_run"]
    assert web["in_run"] == pytest.approx((law["in_run"] + books["in_run"]) / 8, abs=1)
    assert found.steps[-1].findings["advice"] == ["law: its budget is 6.00 epochs, cut to 4."]


def test_tokens_of_the_whole_are_those_of_the_shard(raw: Path) -> None:
    found = balanced(raw, f"balance.tokenizer={TINY}", "balance.sample_mb=100")
    made = tokenize([raw / "law.jsonl"], tokenizer=TINY, output_prefix=raw / "law", workers=1)
    assert made is not None
    assert portions(found)["law"]["available"] == made.tokens
    # And of a sample about so many.
    assert max(map(len, found.steps[-1].findings["table"])) <= 80
    found = balanced(raw, f"balance.tokenizer={TINY}", "balance.sample_mb=0.01", output="sampled")
    assert portions(found)["law"]["available"] == pytest.approx(made.tokens, rel=0.03)
    assert portions(found)["law"]["available"] != made.tokens


def test_a_sample_that_holds_no_document_is_drawn_again(raw: Path) -> None:
    write_jsonl(raw / "law.jsonl", LAW[:1])
    found = balanced(raw, f"balance.tokenizer={TINY}", "balance.sample_mb=0.000001")
    assert portions(found)["law"]["available"] == len(LAW[0].encode()) + 1  # A byte each, and EOS.


@pytest.fixture
def blend(raw: Path) -> Path:
    write_model_folder(raw / "model")
    return raw


def planned(raw: Path, **shards: list[str]) -> Plan:
    """The plan of a run by blend.yaml, when its shards are there."""
    for shard, names in shards.items():
        folders = [raw / "out" / name for name in names]
        tokenize(folders, tokenizer=TINY, output_prefix=raw / "data" / shard, workers=1)
    config = compose(
        [
            f"model.path={raw / 'model'}",
            "model.init=random",
            f"run_dir={raw / 'run'}",
            "data.sequence_length=64",
            "data.global_batch_size=16",
        ],
        config_file=raw / "out" / "blend.yaml",
    )
    return check(config)


def test_a_run_by_the_blend_takes_what_was_planned(blend: Path) -> None:
    """``megacpt plan`` reckons with the shards themselves."""
    raw = blend
    found = balanced(
        raw,
        "balance.ratio=6",
        "balance.sources.books.epochs=3",
        f"balance.shards={raw / 'data'}",
        f"balance.tokenizer={TINY}",
        law="domain",
        books="domain",
        web="general",
    )
    plan = planned(raw, law=["law"], books=["books"], web=["web"])
    by_name = {source.name: source for source in plan.sources}
    assert by_name["web"].is_replay
    assert by_name["web"].share_asked == pytest.approx(1 / 7, rel=1e-4)
    for name, portion in portions(found).items():
        assert by_name[name].epochs == pytest.approx(portion["epochs"], rel=0.03), name
        assert by_name[name].tokens == pytest.approx(portion["in_run"], rel=0.03), name
    assert by_name["books"].epochs == pytest.approx(3, rel=0.03)


def test_general_sources_become_one_shard(blend: Path) -> None:
    raw = blend
    found = balanced(
        raw, f"balance.shards={raw / 'data'}", law="domain", web="general", books="general"
    )
    text = (raw / "out" / "blend.yaml").read_text()
    assert "tokenize FOLDER/web FOLDER/books --tokenizer MODEL" in text
    plan = planned(raw, law=["law"], general=["web", "books"])
    (general,) = (source for source in plan.sources if source.is_replay)
    assert general.share_asked == pytest.approx(0.1)
    shares = {name: p["in_run"] for name, p in portions(found).items()}
    assert shares["web"] / shares["books"] == pytest.approx(size(WEB) / size(BOOKS), rel=0.01)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["balance.ratio=2"], "domain to general is 2:1; 4:1 to 20:1 is usual"),
        (["balance.ratio=30"], "domain to general is 30:1; 4:1 to 20:1 is usual"),
        (["balance.max_epochs=0.02"], "law: its budget is 1.00 epochs, cut to 0.02"),
        (["balance.sources.web.amount=500", "balance.ratio=8"], "cut to 4."),
        (["sources.web.kind=domain"], "no source is of kind general: nothing is replayed"),
    ],
)
def test_what_is_not_as_usual_or_asked_is_told(raw: Path, words: list[str], told: str) -> None:
    said = balanced(raw, *words).steps[-1].findings["advice"]
    assert told in "\n".join(said)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sources.law.kind=general"], "has no source of kind domain"),
        (["balance.sources.lwa.epochs=2"], r"balance.sources.lwa=.* is not among the sources"),
        (["balance.sources.web.epochs=2"], r"sources.web.epochs=2 is of a general source"),
        (
            ["balance.sources.law.epochs=2", "balance.sources.law.amount=5"],
            r"law.epochs=2 is set beside amount",
        ),
        (["balance.ratio=0"], r"balance.ratio=0.0 is not above 0"),
    ],
)
def test_settings_that_cannot_be_meant(raw: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        balanced(raw, *words)
    assert not (raw / "out").exists()


def test_held_out_text_is_left_alone(raw: Path) -> None:
    found = balanced(raw, law="domain", web="general", books="heldout")
    assert left(raw / "out" / "books") == BOOKS
    assert "books" not in found.steps[-1].counts
    assert "books" not in (raw / "out" / "blend.yaml").read_text()


@pytest.mark.parametrize(("piece_size", "workers"), [(4_000, 1), (4_000, 3), (30_000, 2)])
def test_the_cut_and_the_workers_leave_no_trace(raw: Path, piece_size: int, workers: int) -> None:
    balanced(raw, "balance.ratio=5")
    config = read_config(None, overrides=[f"output={raw}/x", "balance.ratio=5"])
    sources = [
        TextSource(
            name=name,
            kind=kind,
            files=tuple(find_files([raw / f"{name}.jsonl"], file_format=None, spool=raw)),
        )
        for name, kind in (("law", Kind.domain), ("web", Kind.general))
    ]
    result = run(
        Corpus(sources=tuple(sources), piece_size=piece_size),
        settings=config.balance,  # type: ignore[arg-type]
        context=Context(
            folder=raw / "work",
            form=PartForm.jsonl,
            reading=Reading(workers=workers, threads_max=2),
        ),
    )
    made = {s.name: [Path(file.path) for file in s.files] for s in result.corpus.sources}
    assert len(made["web"]) > 1
    for name, files in made.items():
        lines = "".join(file.read_text() for file in files)
        assert lines == (raw / "out" / name / "00000.jsonl").read_text()
    assert result.files["blend.yaml"].read_text() == (raw / "out" / "blend.yaml").read_text()


def test_the_verb(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(raw)
    words = ["balance", "law.jsonl", "--general", "web.jsonl", "--general", "books.jsonl"]
    assert main([*words, "--output", "out", "ratio=2", "form=jsonl", "--dry-run"]) == 0
    assert not Path("out").exists()
    dry = capsys.readouterr()
    assert main([*words, "--output", "out", "ratio=2", "form=jsonl"]) == 0
    done = capsys.readouterr()
    assert "domain to general is 2:1; 4:1 to 20:1 is usual" in done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "  domain to general 2:1, " in done.out
    assert dry.out.splitlines()[:8] == done.out.splitlines()[:8]
    tree = yaml.safe_load(Path("out/blend.yaml").read_text())
    assert tree["data"]["replay"] == {"source": "general", "share": pytest.approx(1 / 3, rel=1e-5)}
    kept = left(Path("out") / "general")
    assert 0.9 * size(LAW) / 2 < size(kept) <= size(LAW) / 2
