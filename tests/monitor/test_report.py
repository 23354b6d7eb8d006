# SPDX-License-Identifier: Apache-2.0
"""The report of a realistic run: right numbers, one file, and nothing that reaches outside."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.compose import read_run_yaml, write_run_yaml
from megacpt.config.sections import AdapterConfig, GateConfig
from megacpt.errors import ConfigError, DataError
from megacpt.monitor.report import write_report
from tests.monitor.sample_run import (
    STEPS,
    heldout_at,
    records,
    records_with_faults,
    run_config,
    write_certificate,
    write_evaluation,
    write_run,
)


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """Trained, evaluated, exported."""
    run_dir = tmp_path / "psalms-135m"
    config = write_run(run_dir, run=records())
    write_evaluation(run_dir, config=config, step=STEPS)
    write_certificate(run_dir)
    return run_dir


def report(run_dir: Path) -> dict[str, Any]:
    write_report(run_dir)
    content: dict[str, Any] = json.loads((run_dir / "report.json").read_text())
    return content


def text_of(run_dir: Path) -> str:
    """What a reader sees, without markup."""
    page = (run_dir / "report.html").read_text()
    body = page[page.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_report_json_holds_the_promised_numbers(finished_run: Path) -> None:
    content = report(finished_run)
    for name, base in heldout_at(0).items():
        assert content["heldout"][name]["base"] == pytest.approx(base)
        assert content["heldout"][name]["final"] == pytest.approx(heldout_at(STEPS)[name])
    assert content["forgetting"] == pytest.approx(heldout_at(STEPS)["speeches"]["loss"] - 3.367)
    assert content["steps"] == STEPS
    assert content["tokens_per_source"] == {
        "psalms": STEPS * 6 * 511,
        "speeches": STEPS * 2 * 511,
    }
    assert content["tokens_per_s"] == pytest.approx(8 * 511 / 2.76)
    assert content["gate"]["verdict"] == "passed"
    assert content["environment"]["device"] == "CPU, 2 threads"
    assert content["certificate"]["max_abs_difference"] == 3.1e-5


def test_the_page_opens_with_the_verdict(finished_run: Path) -> None:
    write_report(finished_run)
    assert text_of(finished_run).startswith(
        "Continued pretraining report · psalms-135m "
        "Domain perplexity fell by 18.1% and general perplexity rose by 1.0%. "
        "Gate passed. Every limit declared before training holds."
    )


def test_the_page_asks_for_nothing_outside_itself(finished_run: Path) -> None:
    write_report(finished_run)
    page = (finished_run / "report.html").read_text()
    assert "default-src 'none'" in page
    without_namespaces = re.sub(r'xmlns(:xlink)?="[^"]+"', "", page)
    assert "://" not in without_namespaces
    links = re.findall(r'(?:src|href|action|data)="([^"]*)"', page) + re.findall(
        r"url\(([^)]*)\)", page
    )
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"<(script|img|link|iframe|object)\b|@import", page)


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order."""

    VOID = ("meta", "br", "path", "use", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_ids_are_unique_enough(finished_run: Path) -> None:
    write_report(finished_run)
    parser = Balanced()
    parser.feed((finished_run / "report.html").read_text())
    assert parser.open == []


def test_what_a_model_writes_is_text_and_never_markup(finished_run: Path) -> None:
    write_report(finished_run)
    page = (finished_run / "report.html").read_text()
    assert "&lt;b&gt;not one&lt;/b&gt; &amp; no other" in page
    assert "<b>not one" not in page


def test_the_mix_shows_asked_beside_achieved(finished_run: Path) -> None:
    psalms, speeches = report(finished_run)["data_mix"]
    assert (psalms["source"], psalms["asked"], psalms["achieved"]) == ("psalms", 0.75, 0.75)
    assert (speeches["replay"], speeches["samples"]) == (True, STEPS * 2)
    assert psalms["epochs"] is None
    (finished_run / "plan.json").write_text(
        '{"sources": [{"name": "psalms", "available_tokens": 183960}]}'
    )
    assert report(finished_run)["data_mix"][0]["epochs"] == 2.0


def test_the_mix_asked_for_follows_the_stages_of_the_plan(finished_run: Path) -> None:
    half = {"steps": STEPS // 2, "global_batch_size": 8}
    stages = [
        {"from_step": 0, "shares": {"psalms": 0.75, "speeches": 0.25}, **half},
        {"from_step": STEPS // 2, "shares": {"psalms": 0.5, "speeches": 0.5}, **half},
    ]
    (finished_run / "plan.json").write_text(json.dumps({"sources": [], "stages": stages}))
    mix = {row["source"]: row["asked"] for row in report(finished_run)["data_mix"]}
    assert mix == pytest.approx({"psalms": 0.625, "speeches": 0.375})


def test_generations_of_base_and_final_stand_side_by_side(finished_run: Path) -> None:
    first, _ = report(finished_run)["generations"]
    assert first["prompt"] == "The LORD is my shepherd; I shall not"
    assert first["base"].startswith("be afraid")
    assert first["final"].startswith("want.")


def test_the_same_run_gives_the_same_page(finished_run: Path) -> None:
    write_report(finished_run)
    first = (finished_run / "report.html").read_bytes()
    write_report(finished_run)
    assert (finished_run / "report.html").read_bytes() == first


def test_a_failed_gate_says_which_limit(tmp_path: Path) -> None:
    config = write_run(tmp_path, run=records())
    config.evaluate.gate.general_perplexity_ratio_max = 1.001
    write_evaluation(tmp_path, config=config, step=STEPS)
    content = report(tmp_path)
    assert content["gate"]["verdict"] == "failed"
    assert [check["verdict"] for check in content["gate"]["checks"]] == ["passed", "failed"]
    assert "Gate failed. A limit declared before training does not hold." in text_of(tmp_path)


def test_a_limit_that_was_declared_after_the_evaluation_is_not_passed(tmp_path: Path) -> None:
    config = write_run(tmp_path, run=records())
    evaluate = replace(config.evaluate, gate=GateConfig())
    write_evaluation(tmp_path, config=replace(config, evaluate=evaluate), step=STEPS)
    content = report(tmp_path)
    assert (content["gate"]["verdict"], content["gate"]["checks"]) == ("not checked", [])
    assert "evaluation.json is from before: run megacpt evaluate." in content["gate"]["note"]


def test_no_declared_limit_is_nothing_passed(tmp_path: Path) -> None:
    write_run(tmp_path, run=records())
    config = run_config(tmp_path)
    config.evaluate.gate.domain_perplexity_ratio_max = None
    config.evaluate.gate.general_perplexity_ratio_max = None
    (tmp_path / "run.yaml").unlink()
    write_run_yaml(config, path=tmp_path / "run.yaml")
    assert report(tmp_path)["gate"]["verdict"] == "not declared"


def test_an_evaluation_older_than_the_training_is_not_used(tmp_path: Path) -> None:
    config = write_run(tmp_path, run=records())
    write_evaluation(tmp_path, config=config, step=60)
    content = report(tmp_path)
    assert content["gate"]["verdict"] == "not checked"
    assert "evaluation.json is of an earlier step" in content["gate"]["note"]
    assert content["heldout_source"] == "measured in training after step 120"
    assert content["heldout"]["psalms"]["final"] == heldout_at(STEPS)["psalms"]


@pytest.mark.parametrize(
    ("steps", "headline"),
    [
        (0, "Nothing is trained yet: only the base model was measured."),
        (3, "Gain and forgetting are not known yet: only the base model was measured."),
        (25, "Domain perplexity fell by 7.9% and general perplexity rose by 0.3%."),
    ],
)
def test_a_run_in_progress_gets_a_report(tmp_path: Path, steps: int, headline: str) -> None:
    write_run(tmp_path, run=records(steps=steps))
    content = report(tmp_path)
    assert content["headline"] == headline
    assert content["complete"] is False
    assert f"Not finished. {steps} of 120 steps are done" in text_of(tmp_path)


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    run = records(steps=20)
    run[-1]["loss"] = math.nan
    run[-1]["heldout"]["psalms"] = {"loss": math.nan, "perplexity": math.nan, "tokens": 19_968}
    write_run(tmp_path, run=run)
    assert report(tmp_path)["headline"].startswith(
        "Domain perplexity is no number any more (the run diverged)"
    )
    assert "diverged" in text_of(tmp_path)


def test_a_folder_that_is_no_run_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no run\.yaml"):
        write_report(tmp_path)


def test_a_run_that_measured_nothing_yet_names_the_remedy(tmp_path: Path) -> None:
    write_run_yaml(run_config(tmp_path), path=tmp_path / "run.yaml")
    with pytest.raises(DataError, match="measured nothing yet; start it with `megacpt train`"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="has no record yet"):
        write_report(tmp_path)


def test_metrics_without_the_base_model_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, run=records()[1:])
    with pytest.raises(DataError, match="none of the untouched base model at step 0"):
        write_report(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_file_beside_the_metrics_is_named(finished_run: Path, content: str) -> None:
    (finished_run / "evaluation.json").write_text(content)
    with pytest.raises(DataError, match=r"evaluation\.json is not a JSON object"):
        write_report(finished_run)


def test_the_certificate_is_told_in_words(finished_run: Path) -> None:
    write_report(finished_run)
    text = text_of(finished_run)
    assert "Verdict certified Largest logit difference 3.1e-05 (largest logit 21.4," in text
    assert "Same next token 100.00% of all positions Compared on 2 prompts, 35 tokens" in text


def test_of_an_adapter_the_certificate_is_that_of_its_own_folder(finished_run: Path) -> None:
    config = replace(read_run_yaml(finished_run / "run.yaml"), adapter=AdapterConfig())
    (finished_run / "run.yaml").unlink()
    write_run_yaml(config, path=finished_run / "run.yaml")
    write_report(finished_run)
    assert "None yet: megacpt export writes the PEFT folder" in text_of(finished_run)
    (finished_run / "hf").rename(finished_run / "adapter")
    write_report(finished_run)
    assert "The exported PEFT folder, compared with the model" in text_of(finished_run)


def test_faults_and_the_slow_rank_are_told_and_no_markup_comes_from_the_samples(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "faulty"
    write_run(run_dir, run=records_with_faults())
    content = report(run_dir)
    assert [event["step"] for event in content["faults"]] == [30, 58]
    assert content["skipped_samples_per_source"] == {"psalms": 6, "speeches": 2}
    assert content["rank_times"]["slowest_host"] == "node07"
    text = text_of(run_dir)
    assert "30 gradient norm 81.25 (threshold 4.2) its update is skipped" in text
    assert (
        "58 loss nan back to step 40, passing over steps 55 to 58, learning rate x 0.5 "
        "sample 5, of psalms, document 812 from token 40 on" in text
    )
    assert "6 samples of psalms, 2 samples of speeches" in text
    assert "rank 13 on node07, 4.1 s" in text
    assert content["saves"] == {"published": 2, "stall_s": 1.5}
    assert "Checkpoints: 2 published by then; training stood still for them for 1.5 s" in text
    page = (run_dir / "report.html").read_text()
    assert "&lt;b&gt;" in page
    assert "\x1b" not in page


def test_a_run_without_faults_has_no_such_section(finished_run: Path) -> None:
    assert report(finished_run)["faults"] == []
    assert "Faults in training" not in text_of(finished_run)


def test_a_run_whose_last_step_was_passed_over_is_complete(tmp_path: Path) -> None:
    run = records_with_faults()
    run[STEPS] = {**run[58], "step": STEPS}
    write_run(tmp_path / "run", run=run)
    assert report(tmp_path / "run")["complete"] is True


def test_suites_are_shown_in_layers_with_what_flipped(finished_run: Path) -> None:
    config = read_run_yaml(finished_run / "run.yaml")
    gate = replace(config.evaluate.gate, retention_drop_max_points=2.0)
    config = replace(config, evaluate=replace(config.evaluate, gate=gate))
    (finished_run / "run.yaml").unlink()
    write_run_yaml(config, path=finished_run / "run.yaml")
    write_evaluation(finished_run, config=config, step=STEPS, suites=True)
    summary = write_report(finished_run)
    text = text_of(finished_run)
    assert summary["gate"]["verdict"] == "not enough items"
    assert "Gate not enough items. No limit is exceeded for sure" in text
    assert "1. Retention: what the base model can hellaswag acc 3,000 0.4810 0.4767" in text
    assert "128 items lost, the first 100 here" in text
    assert "Contamination: its items may be in the text trained on." in text
    assert (finished_run / "report.html").read_text().count('<svg class="interval"') == 4


def test_limits_that_were_moved_are_told(finished_run: Path) -> None:
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    (finished_run / "evaluation.json").write_text(json.dumps(evaluation | {"declared_late": True}))
    write_report(finished_run)
    assert "The gate was declared after training began" in text_of(finished_run)
