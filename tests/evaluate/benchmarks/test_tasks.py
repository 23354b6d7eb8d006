# SPDX-License-Identifier: Apache-2.0
"""Tasks that cannot be measured are refused by name, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from megacpt.config.sections import BenchmarkConfig, EvaluateConfig
from megacpt.device.isolation import require_isolation
from megacpt.errors import ConfigError, DataError, EnvironmentError_
from megacpt.evaluate.benchmarks.tasks import LoadedSuite, load_suite, require_chat_template
from megacpt.tokenizer import load_tokenizer
from tests.evaluate.benchmarks.local_tasks import write_tasks
from tests.support import write_model_folder

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs megacpt[eval]")
Load = Callable[..., LoadedSuite]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks")


@pytest.fixture
def load(folder: Path) -> Load:
    def run(task: str, *, execute_code: bool = False, **settings: Any) -> LoadedSuite:
        config = BenchmarkConfig(task=task, include_path=str(folder), **settings)
        return load_suite("mine", config=config, execute_code=execute_code)

    return run


def change(folder: Path, task: str, **changes: Any) -> None:
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_by_name_and_by_file(load: Load, folder: Path) -> None:
    assert list(load("choices").tasks) == ["choices"]
    assert list(load(str(folder / "rolling.yaml")).tasks) == ["rolling"]


def test_solved_examples(load: Load) -> None:
    def shots(task: str, **settings: Any) -> int:
        found: int = load(task, **settings).tasks[task].get_config("num_fewshot")
        return found

    assert (shots("letters"), shots("letters", fewshot=1)) == (2, 1)
    assert shots("choices") == 0


def test_solved_examples_that_a_task_rules_out(load: Load, folder: Path) -> None:
    change(folder, "letters", num_fewshot=0)
    assert load("letters", fewshot=0).tasks["letters"].get_config("num_fewshot") == 0
    with pytest.raises(ConfigError, match=r"mine\.fewshot=2 changes nothing: letters says"):
        load("letters", fewshot=2)


def test_a_task_of_images(load: Load, folder: Path) -> None:
    change(folder, "written", doc_to_image="question")
    with pytest.raises(ConfigError, match="asks about images or sound in written"):
        load("written")


@pytest.mark.slow
def test_an_unknown_name(load: Load) -> None:
    with pytest.raises(ConfigError) as refusal:
        load("choicess")
    text = str(refusal.value)
    assert "evaluate.benchmarks.mine.task=choicess is not among" in text
    assert "did you mean choices?" in text


def test_data_that_cannot_be_read(load: Load, folder: Path) -> None:
    (folder / "choices.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"cannot be read here \(") as refusal:
        load("choices")
    assert "dataset_path: json" in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"doc_to_text": "{{asked}}"}, "UndefinedError"),
        ({"doc_to_text": "{{question"}, "TemplateSyntaxError"),
        ({"num_shots": 2}, "TypeError"),
        ({"dataset_kwargs": {"data_files": {"test": "choices.yaml"}}}, "DatasetGenerationError"),
    ],
)
def test_a_task_with_a_mistake(
    changes: dict[str, Any],
    error: str,
    load: Load,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the library makes of it, the suite is named, and no traceback."""
    monkeypatch.chdir(folder)
    change(folder, "choices", **changes)
    with pytest.raises(
        ConfigError, match=rf"mine\.task=choices has .* here \({error}: "
    ) as refusal:
        load("choices")
    assert "correct its YAML file" in str(refusal.value)


def test_an_unknown_metric(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"metric=f1 is no metric of choices; use one of acc, "):
        load("choices", metric="f1")


def test_tokens_are_drawn_at_a_temperature(load: Load, folder: Path) -> None:
    change(folder, "written", generation_kwargs={"do_sample": True})
    with pytest.raises(ConfigError, match=r"without a temperature in written; set a temperature"):
        load("written")
    change(folder, "written", generation_kwargs={"do_sample": True, "temperature": 0.5})
    assert list(load("written").tasks) == ["written"]


def test_no_metric_with_a_direction(load: Load, folder: Path) -> None:
    metric = {"metric": "acc", "aggregation": "mean", "higher_is_better": None}
    change(folder, "choices", metric_list=[metric])
    with pytest.raises(DataError, match=r"set evaluate\.benchmarks\.mine\.metric"):
        load("choices")


def test_a_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model")
    benchmarks = {"law": BenchmarkConfig(chat=True), "plain": BenchmarkConfig()}
    asked = EvaluateConfig(benchmarks=benchmarks)
    with pytest.raises(
        ConfigError, match=r"benchmarks\.law\.chat=True needs a chat template"
    ) as no:
        require_chat_template(asked, tokenizer=load_tokenizer(folder))
    assert "plain" not in str(no.value)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    require_chat_template(asked, tokenizer=load_tokenizer(folder))


def test_code_of_the_model_is_not_run_unasked(load: Load, folder: Path) -> None:
    change(folder, "written", unsafe_code=True)
    with pytest.raises(ConfigError, match="runs the code that the model writes") as refusal:
        load("written")
    assert "evaluate.execute_code=true" in str(refusal.value)
    try:
        require_isolation()
    except EnvironmentError_ as error:
        with pytest.raises(EnvironmentError_, match="no means to keep a process apart"):
            load("written", execute_code=True)
        pytest.skip(str(error))
    assert list(load("written", execute_code=True).tasks) == ["written"]
