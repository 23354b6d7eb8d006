# SPDX-License-Identifier: Apache-2.0
"""The card of an exported model: the hub's own library reads it, and it says what the run's files
say."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from megacpt.config.sections import AdapterConfig, BaseWeights, Init, RunConfig
from megacpt.corpus.curation import origin_of
from megacpt.monitor.card import datasets_of, write_card
from megacpt.shards.tokenize import tokenize
from tests.corpus.curated import decontaminated, step, write_curated
from tests.monitor.sample_run import STEPS, heldout_at, records, write_evaluation
from tests.monitor.sample_run import write_run as write_files

ROOT = Path(__file__).parents[2]
HUB = "/cache/hub/models--org--Base-7B/snapshots/" + "0123456789" * 4
BASE_CARD = (
    "---\nlicense: other\nlicense_name: law-1\nlanguage:\n- de\npipeline_tag: x\n---\n# Base\n"
)


class Run:
    """A run of 120 steps and the folder that is being exported."""

    def __init__(self, folder: Path, *, path: str = HUB) -> None:
        self.run_dir, self.hf = folder / "psalms|135m", folder / "hf"
        self.config = replace_model(
            write_files(self.run_dir, run=records()), path=path, init=Init.pretrained
        )
        self.hf.mkdir()
        (self.hf / "config.json").write_text(json.dumps({"model_type": "llama"}))

    def card(self, *, step: int = STEPS, config: RunConfig | None = None) -> ModelCard:
        write_card(self.hf, run_dir=self.run_dir, config=config or self.config, step=step)
        return ModelCard.load(self.hf / "README.md")


def replace_model(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, model=replace(config.model, **changes))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_hub_s_library_reads_what_the_run_found(run: Run) -> None:
    write_evaluation(run.run_dir, config=run.config, step=STEPS)
    (run.hf / "README.md").write_text(BASE_CARD)
    card = run.card()
    data = card.data
    assert (data.base_model, data.base_model_relation) == ("org/Base-7B", "finetune")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert (data.license, data.license_name, data.language) == ("other", "law-1", ["de"])
    assert data.tags == ["megacpt", "continued-pretraining"]
    assert "datasets" not in data.to_dict()
    found = {(r.dataset_type, r.metric_type): r.metric_value for r in data.eval_results}
    final = heldout_at(STEPS)
    assert found == {
        (name, metric): pytest.approx(final[name][metric], abs=1e-6)
        for name in ("psalms", "speeches")
        for metric in ("loss", "perplexity")
    }


def test_the_text_says_the_same(run: Run) -> None:
    write_evaluation(run.run_dir, config=run.config, step=STEPS)
    text = run.card().text
    assert text.startswith(
        "\n# psalms\\|135m\n\norg/Base-7B after continued pretraining on 490,560"
    )
    assert "| psalms | 75.0% | 75.0% | 367,920 |" in text
    assert "| speeches (replay) | 25.0% | 25.0% | 122,640 |" in text
    assert "after step 120.\nForgetting (general loss, final minus base): +0.0104." in text
    assert "Passed. Every limit declared before training holds." in text
    assert "- general retention passed: perplexity is 1.0104 of base, the declared limit" in text
    assert "| Learning rate | 2e-05 peak, 6 warmup steps, cosine to 0.1 of it |" in text
    assert f"Commit `{HUB[-40:]}`" in text


def test_suites_with_a_limit_stand_below_the_gate(run: Run) -> None:
    gate = replace(run.config.evaluate.gate, retention_drop_max_points=2.0)
    config = replace(run.config, evaluate=replace(run.config.evaluate, gate=gate))
    write_evaluation(run.run_dir, config=config, step=STEPS, suites=True)
    text = run.card().text
    assert "Not enough items. No limit is exceeded for sure" in text
    assert "- mmlu retention not enough items: " in text
    assert "letters" not in text


def test_the_step_that_is_exported_counts_and_no_later_one(run: Run) -> None:
    """Training went on until 120 and was evaluated there; the newest checkpoint is of 60."""
    write_evaluation(run.run_dir, config=run.config, step=STEPS)
    card = run.card(step=60)
    assert "245,280 tokens, 60 steps" in card.text
    assert "measured in training after step 60." in card.text
    assert "| Steps | 60 of 120 |" in card.text
    assert "Not checked." in card.text
    losses = [r.metric_value for r in card.data.eval_results if r.metric_type == "loss"]
    assert losses == [pytest.approx(v["loss"], abs=1e-6) for v in heldout_at(60).values()]


def test_what_is_not_known_is_left_out(run: Run) -> None:
    for name in ("metrics.jsonl", "environment.json"):
        (run.run_dir / name).unlink()
    local = replace_model(run.config, path="/home/me/secret/my-model")
    card = run.card(config=local)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["megacpt", "continued-pretraining"],
    }
    assert "my-model after continued pretraining, 120 steps." in card.text
    for absent in ("secret", "## Data", "## Held-out", "Ranks", "None", "nan", "licence"):
        assert absent not in card.text


def test_random_weights_have_no_base_model(run: Run) -> None:
    card = run.card(config=replace_model(run.config, init=Init.random))
    assert "base_model" not in card.data.to_dict()
    assert "A model of the architecture of org/Base-7B, trained from random weights" in card.text


def test_cards_of_the_base_model_and_its_base_stay(run: Run) -> None:
    (run.hf / "README.md").write_text(BASE_CARD)
    (run.hf / "README_BASE.md").write_text("its own base")
    card = run.card()
    assert (run.hf / "README_BASE.md").read_text() == "its own base"
    assert (run.hf / "README_BASE_2.md").read_text() == BASE_CARD
    assert "[README_BASE_2.md](README_BASE_2.md)" in card.text


@pytest.mark.parametrize(
    "base", ["", "# no front matter", "---\n[1, 2]\n---\n", "---\na: [\n---\n", "---\n- a\n---\n"]
)
def test_a_card_that_says_nothing_to_programs(base: str, run: Run) -> None:
    (run.hf / "README.md").write_text(base)
    assert "license" not in run.card().data.to_dict()
    assert (run.hf / "README_BASE.md").read_text() == base


def test_datasets_of_the_hub_s_cache_are_named(run: Run, tmp_path: Path) -> None:
    """As its client keeps them: a snapshot of links."""
    blob = tmp_path / "blobs" / "b"
    blob.parent.mkdir()
    blob.write_text('{"text": "In the beginning"}\n')
    link = tmp_path / "datasets--org--psalms" / "snapshots" / ("ab" * 20) / "data" / "a.jsonl"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    prefix = tmp_path / "psalms"
    tokenize([link], tokenizer=ROOT / "configs" / "model" / "tiny", output_prefix=prefix, workers=1)
    sources = run.config.data.sources
    sources |= {"psalms": replace(sources["psalms"], prefix=str(prefix))}
    card = run.card()
    assert card.data.datasets == ["org/psalms"]
    assert "| org/psalms |" in card.text


def test_a_manifest_that_cannot_be_read_names_none(run: Run, tmp_path: Path) -> None:
    prefix = tmp_path / "broken"
    prefix.with_suffix(".json").write_text("{")
    assert datasets_of(str(prefix)) == ()


def test_of_a_model_of_text_and_images(run: Run) -> None:
    (run.hf / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": {}}))
    card = run.card()
    assert card.data.pipeline_tag == "image-text-to-text"
    assert "AutoModelForImageTextToText.from_pretrained(folder)" in card.text
    assert "Only the text model was trained" in card.text


def test_names_are_shown_as_they_are(run: Run) -> None:
    """Markdown's and YAML's own characters in the name of a source and of a held-out set."""
    odd = "a|b_c`d: [e] <f>"
    renamed = [json.loads(json.dumps(r).replace('"psalms"', json.dumps(odd))) for r in records()]
    write_lines(run.run_dir / "metrics.jsonl", renamed)
    card = run.card()
    assert {r.dataset_type for r in card.data.eval_results} == {odd, "speeches"}
    assert r"| a\|b\_c\`d: \[e\] \<f\> |" in card.text


def write_lines(path: Path, content: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in content))


def test_an_adapter_s_card_names_the_model_that_it_goes_on(tmp_path: Path) -> None:
    """Its folder has no config.json of a model: what that is, the base's folder says."""
    cached = tmp_path / "models--org--Base-7B" / "snapshots" / ("0123456789" * 4)
    cached.mkdir(parents=True)
    (cached / "config.json").write_text(json.dumps({"model_type": "llama"}))
    run = Run(tmp_path, path=str(cached))
    (run.hf / "config.json").unlink()
    (run.hf / "adapter_config.json").write_text("{}")
    words = "DoRA, rank 16, alpha 32: 5.04M of 134.52M parameters trained (3.7 %)"
    file = run.run_dir / "environment.json"
    environment = json.loads(file.read_text())
    environment.setdefault("settings", {})["adapter"] = words
    file.write_text(json.dumps(environment))
    card = run.card()
    assert (card.data.base_model, card.data.base_model_relation) == ("org/Base-7B", "adapter")
    assert card.data.library_name == "peft"
    assert f"| Adapter | {words} |" in card.text
    code = card.text.partition("```python\n")[2].partition("```")[0]
    assert 'AutoModelForCausalLM.from_pretrained("org/Base-7B")' in code
    assert "PeftModel.from_pretrained(base, folder)" in code
    compile(code, "card", "exec")
    assert "`certificate.json` compares its logits" in card.text
    assert "kept in" not in card.text
    packed = replace(run.config, adapter=AdapterConfig(base=BaseWeights.nf4))
    (run.hf / "README.md").unlink()
    assert "measured beside weights kept in nf4, not" in run.card(config=packed).text


def test_a_folder_that_nobody_has_compared_names_no_certificate(run: Run) -> None:
    write_card(run.hf, run_dir=run.run_dir, config=run.config, step=STEPS, certified=False)
    text = ModelCard.load(run.hf / "README.md").text
    assert "certificate.json" not in text
    assert "Nobody has compared its logits" in text


def test_how_the_text_was_curated(run: Run, tmp_path: Path) -> None:
    """As the run has kept it; its shards need not be there any more."""
    steps = [step("filter", "psalms"), decontaminated("psalms")]
    curation = write_curated(tmp_path / "out", steps, texts={"psalms": ["In the beginning"]})
    origin = origin_of("psalms", curation=curation, folder=tmp_path / "out")
    kept = {"sources": [], "curated": {"psalms": [asdict(origin)], "speeches": []}}
    assert "## Curation" not in run.card().text
    (run.run_dir / "plan.json").write_text(json.dumps(kept))
    text = run.card().text
    fingerprint = curation.fingerprint
    assert text[text.index("## Curation") :].split("\n")[2:8] == [
        "| Source | Step | Documents | Left | Text left | Record |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| psalms | filtered | 9 | 8 | 800 bytes | {fingerprint} |",
        f"| psalms | decontaminated, decontaminated:mmlu | 9 | 8 | 800 bytes | {fingerprint} |",
        "| speeches | no record |  |  |  |  |",
        "",
    ]
