# SPDX-License-Identifier: Apache-2.0
"""Whoever waits for a text is told, whatever becomes of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from megacpt.serve.engine import Engine, EngineFailed, Prompt
from megacpt.serve.request import Sampling
from tests.serve.folders import serve, write_model

GREEDY = Sampling(temperature=0.0, top_p=1.0, seed=None)
PROMPT = Prompt(ids=(7, 1, 42), max_tokens=3, sampling=GREEDY, stop=(), end_ids=frozenset())


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(serve(write_model(tmp_path / "m")), batch_max=2)
    yield engine
    engine.close()


@pytest.mark.parametrize("error", [RuntimeError, TypeError, AssertionError])
def test_a_failure_is_told_and_the_next_text_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise error("no")

    with monkeypatch.context() as patch:
        patch.setattr(engine._served.model, "generate", fails)
        for writing in [engine.submit(PROMPT) for _ in range(3)]:
            with pytest.raises(EngineFailed, match=f"the model failed: {error.__name__}: no"):
                list(writing)
    writing = engine.submit(PROMPT)
    list(writing)
    assert (writing.finish, writing.num_tokens) == ("length", 3)


def test_who_waits_when_it_ends_is_told(engine: Engine) -> None:
    engine.close()
    with pytest.raises(EngineFailed, match="the server is ending"):
        list(engine.submit(PROMPT))
