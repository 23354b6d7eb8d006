# SPDX-License-Identifier: Apache-2.0
"""Texts score as transformers scores each alone, in shared rows and padded ones, in all layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from megacpt.evaluate.benchmarks.text import Score
from tests.convert.test_export import import_model
from tests.evaluate.benchmarks.prompts import (
    DRAWN,
    WRITING,
    continued_by_transformers,
    decode,
    prompts,
)
from tests.evaluate.benchmarks.questions import MAX_LENGTH, scored_by_transformers, texts
from tests.llama_cases import CASES, write_llama
from tests.run_on_ranks import run_on_ranks

pytestmark = pytest.mark.mcore

TOLERANCE = 1e-4
"""Sums of up to 30 float32 log likelihoods, products summed in another order."""
TWO_RANKS: dict[str, dict[str, Any]] = {
    "tp2": {"tp": 2},
    "tp2-sp": {"tp": 2, "sequence_parallel": True},
    "pp2": {"pp": 2},
    "pp2-vpp2": {"pp": 2, "vpp": 2},
    "dp2": {"dp": 2},
    "cp2": {"cp": 2},
    "zero3": {"dp": 2, "sharded_weights": True},
}


def require_equal(found: list[Score], *, expected: list[Score]) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=TOLERANCE), number
        assert one.is_greedy == other.is_greedy, number


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("takes_branches", [True, False])
@pytest.mark.parametrize("tokens_a_pass", [60, 4096])
def test_one_rank(
    case: str, takes_branches: bool, tokens_a_pass: int, tmp_path: Path, one_rank: None
) -> None:
    from megacpt.evaluate.benchmarks.engine import Engine

    write_llama(tmp_path, **CASES[case])
    chunks, _ = import_model(tmp_path)
    engine = Engine.over(chunks, max_length=MAX_LENGTH, decode=decode)
    assert engine.takes_branches
    engine = replace(engine, takes_branches=takes_branches)
    found = engine.score(texts(), tokens_a_pass=tokens_a_pass)
    expected = scored_by_transformers(texts(), folder=tmp_path)
    require_equal(found, expected=expected)
    assert any(score.is_greedy for score in found)


@pytest.mark.parametrize("takes_branches", [True, False])
def test_continuations(takes_branches: bool, tmp_path: Path, one_rank: None) -> None:
    from megacpt.evaluate.benchmarks.engine import Engine

    write_llama(tmp_path, **CASES["tied-gqa"])
    chunks, _ = import_model(tmp_path)
    engine = Engine.over(chunks, max_length=MAX_LENGTH, decode=decode)
    engine = replace(engine, takes_branches=takes_branches)
    found = engine.write(prompts(), writing=WRITING)
    assert found == continued_by_transformers(prompts(), folder=tmp_path)
    lengths = {len(text) for text in found}
    assert len(lengths) > 2, "some end early"
    assert any(text[-1:] == [36] for text in found), "a stop stays"


def test_drawn_continuations_depend_on_the_seed_alone(tmp_path: Path, one_rank: None) -> None:
    from megacpt.evaluate.benchmarks.engine import Engine

    write_llama(tmp_path, **CASES["plain"])
    chunks, _ = import_model(tmp_path)
    engine = Engine.over(chunks, max_length=MAX_LENGTH, decode=decode)
    first = engine.write(prompts(), writing=DRAWN)
    assert engine.write(prompts(), writing=DRAWN) == first
    assert engine.write(prompts()[:2], writing=DRAWN) == first[:2]
    assert engine.write(prompts(), writing=replace(DRAWN, seed=5)) != first
    cold = replace(DRAWN, temperature=1e-4)
    assert engine.write(prompts(), writing=cold) == engine.write(
        prompts(), writing=replace(DRAWN, temperature=0.0)
    )


@pytest.mark.slow
def test_layouts(tmp_path: Path) -> None:
    write_llama(tmp_path / "model", **CASES["tied-gqa"])
    expected = scored_by_transformers(texts(), folder=tmp_path / "model")
    continued = continued_by_transformers(prompts(), folder=tmp_path / "model")
    drawn, digests = set(), dict.fromkeys(TWO_RANKS, "")
    run_on_ranks(
        "tests.evaluate.benchmarks.score_on_ranks:write_scores", tmp_path, world=2, cases=TWO_RANKS
    )
    for name in TWO_RANKS:
        for rank in range(2):
            file = tmp_path / f"{name}-{rank}.json"
            branches, digest, found, written, sampled = orjson.loads(file.read_bytes())
            assert branches == (name != "cp2")
            require_equal([Score(**score) for score in found], expected=expected)
            assert written == continued, name
            drawn.add(str(sampled))
            assert digests[name] in ("", digest)
            digests[name] = digest
    assert len(drawn) == 1
    # Layouts whose ranks hold the same parts of the weights share their answers.
    assert digests["dp2"] == digests["cp2"]
    assert digests["tp2"] == digests["tp2-sp"]
    assert len(set(digests.values())) == len(TWO_RANKS) - 2
