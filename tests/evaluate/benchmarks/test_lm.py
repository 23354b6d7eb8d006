# SPDX-License-Identifier: Apache-2.0
"""Answers are those of lm-eval's own ``hf`` model on the Hugging Face folder, item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pytest

from megacpt.config.sections import BenchmarkConfig
from megacpt.errors import ModelError
from megacpt.tokenizer import load_tokenizer
from tests.convert.test_export import import_model
from tests.evaluate.benchmarks.lm_on_ranks import answers_of
from tests.evaluate.benchmarks.local_tasks import TASKS, write_tasks
from tests.mixtral_cases import CASES, write_mixtral
from tests.run_on_ranks import run_on_ranks
from tests.serve.folders import write_model
from tests.support import write_model_folder

pytestmark = [
    pytest.mark.mcore,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval: megacpt[eval]"),
]

TOLERANCE = 1e-4
"""Sums of up to twenty float32 log likelihoods, products summed in another order."""
ON_RANKS = "tests.evaluate.benchmarks.lm_on_ranks:write_answers"
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"dense-one": {}, "mixture-one": {}},
    2: {
        "dense-tp2": {"tp": 2},
        "dense-pp2": {"pp": 2},
        "dense-dp2": {"dp": 2},
        "dense-cp2": {"cp": 2},
        "mixture-ep2": {"dp": 2, "ep": 2},
    },
}
"""MODEL-NAME -> settings, by the number of ranks."""
Samples = Mapping[str, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="module")
def native(smollm2: Path, tmp_path_factory: pytest.TempPathFactory, one_rank: None) -> Any:
    from megacpt.evaluate.benchmarks.calls import Model
    from megacpt.evaluate.benchmarks.engine import Engine
    from megacpt.evaluate.benchmarks.lm import NativeLM
    from megacpt.evaluate.journal import AnswerJournal

    chunks, architecture = import_model(smollm2)
    tokenizer = load_tokenizer(smollm2)
    engine = Engine.over(chunks, max_length=architecture.max_positions, decode=tokenizer.decode)
    journal = AnswerJournal(tmp_path_factory.mktemp("answers") / "answers.jsonl")
    return NativeLM(Model(engine), tokenizer=tokenizer, journal=journal)


@pytest.fixture(scope="module")
def measured(
    native: Any, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Samples, Samples]]:
    """lm-eval's record of a task, by the native model and by its own."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from megacpt.evaluate.benchmarks.suites import run_suite
    from megacpt.evaluate.benchmarks.tasks import load_suite

    folder = write_tasks(tmp_path_factory.mktemp("tasks") / "all")
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    # In float32 its own softmax over 49,152 tokens is wrong by 2e-4 in the sum of twenty.
    peer = HFLM(
        model,
        tokenizer=AutoTokenizer.from_pretrained(smollm2),
        batch_size=3,
        softmax_dtype="float64",
    )

    def run(task: str, *, chat: bool = False) -> tuple[Samples, Samples]:
        config = BenchmarkConfig(task=task, include_path=str(folder), chat=chat)
        suite = load_suite(task, config=config, execute_code=False)
        return run_suite(suite, lm=native, seed=7), run_suite(suite, lm=peer, seed=7)

    return run


@pytest.mark.parametrize("task", [task for task in TASKS if task != "written"])
def test_likelihoods(task: str, measured: Callable[..., tuple[Samples, Samples]]) -> None:
    assert_same_likelihoods(*(found[task] for found in measured(task)))


def test_likelihoods_in_the_chat_template(
    measured: Callable[..., tuple[Samples, Samples]],
) -> None:
    """With two solved examples before each question."""
    own, others = (found["letters"] for found in measured("letters", chat=True))
    assert "<|im_start|>assistant" in own[0]["arguments"][0][0]
    assert_same_likelihoods(own, others)


def assert_same_likelihoods(
    own: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> None:
    assert len(own) == len(others) > 0
    for one, other in zip(own, others, strict=True):
        assert one["arguments"] == other["arguments"]
        for answers, expected in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert answers == pytest.approx(expected, abs=TOLERANCE)
        for metric in one["metrics"]:
            assert one[metric] == pytest.approx(other[metric], abs=TOLERANCE)


@pytest.mark.parametrize("chat", [False, True])
def test_texts(chat: bool, measured: Callable[..., tuple[Samples, Samples]]) -> None:
    own, others = (found["written"] for found in measured("written", chat=chat))
    assert [sample["resps"] for sample in own] == [sample["resps"] for sample in others]
    assert any(sample["resps"] != [[""]] for sample in own)


def test_every_layout_answers_as_lm_eval_does(tmp_path: Path) -> None:
    """Item by item, of all kinds of questions, on one rank and on two."""
    write_model(tmp_path / "dense")
    write_mixture(tmp_path / "mixture")
    tasks = write_tasks(tmp_path / "tasks")
    expected = {name: of_lm_eval(tmp_path / name, tasks=tasks) for name in ("dense", "mixture")}
    for world, cases in LAYOUTS.items():
        run_on_ranks(ON_RANKS, tmp_path, world=world, cases=cases)
        for layout in cases:
            found = orjson.loads((tmp_path / f"{layout}.json").read_bytes())
            assert_same_answers(found, expected[layout.partition("-")[0]], layout=layout)


def write_mixture(folder: Path) -> None:
    """Of experts, with the tokenizer of bytes."""
    write_model_folder(folder)
    sizes = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
    write_mixtral(folder, **CASES["qwen3-top2-of-4"], **sizes)


def of_lm_eval(folder: Path, *, tasks: Path) -> Mapping[str, Any]:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    peer = HFLM(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        softmax_dtype="float64",
    )
    found: Mapping[str, Any] = orjson.loads(orjson.dumps(answers_of(peer, tasks=tasks)))
    return found


def assert_same_answers(
    found: Mapping[str, Any], expected: Mapping[str, Any], *, layout: str
) -> None:
    assert found.keys() == expected.keys()
    for task, items in expected.items():
        for own, other in zip(found[task], items, strict=True):
            assert own[0] == other[0]
            for one, its in zip(own[1], other[1], strict=True):
                is_number = isinstance(its, float)
                wanted = pytest.approx(its, abs=TOLERANCE) if is_number else its
                assert one == wanted, (layout, task, own[0])


def test_text_after_nothing_begins_with_the_first_token(native: Any, smollm2: Path) -> None:
    from lm_eval.api.instance import Instance

    settings = {"until": [], "max_gen_toks": 3}
    contexts = ["", load_tokenizer(smollm2).decode([native.prefix_token_id])]
    nothing, first = native.generate_until(
        [
            Instance(request_type="generate_until", doc={}, arguments=(text, settings), idx=0)
            for text in contexts
        ]
    )
    assert nothing == first != ""


def test_a_diverged_model_is_refused(tmp_path: Path) -> None:
    """lm-eval makes a perplexity of the mean, which is then no float."""
    from lm_eval.api.model import LM

    from megacpt.evaluate.benchmarks.suites import run_suite
    from megacpt.evaluate.benchmarks.tasks import load_suite

    class Diverged(LM):
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return [(-1e6, False) for _ in requests]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [-1e6 for _ in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return ["" for _ in requests]

    config = BenchmarkConfig(task="rolling", include_path=str(write_tasks(tmp_path / "tasks")))
    suite = load_suite("law", config=config, execute_code=False)
    with pytest.raises(ModelError, match=r"suite law: .* the model has diverged"):
        run_suite(suite, lm=Diverged(), seed=1)
