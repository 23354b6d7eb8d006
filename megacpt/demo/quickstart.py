# SPDX-License-Identifier: Apache-2.0
"""The quickstart: one small real case through the real verbs, each command shown as it is run.

A step that is done is known by the files it left, so that an interrupted quickstart goes on where
it was when it is started again.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megacpt.checkpoint.folders import newest
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.config.compose import compose
from megacpt.demo import texts
from megacpt.demo.base_model import is_outdated, write_smollm2_folder
from megacpt.demo.overlap import SourcedText, without_near_duplicates
from megacpt.demo.questions import TASKS, write_questions
from megacpt.errors import EnvironmentError_
from megacpt.files import write_text
from megacpt.monitor.layers import checks_of
from megacpt.samples.record import DataRecord
from megacpt.samples.training_data import contents_of
from megacpt.shards.reader import IndexedShard

ROOT = Path("quickstart")
"""Relative, as in configs/experiment/quickstart.yaml; delete it to start from nothing."""
DATA, MODEL, RUN = ROOT / "data", ROOT / "model", ROOT / "run"
EXPERIMENT = "experiment=quickstart"
SHARDS = ("folio", "manuals", "folio_heldout", "python_heldout")
POINTS = "points, and their 95 % interval"
GATE_FAILED, NOT_ENOUGH_ITEMS = 1, 3
Say = Callable[[str], None]
SUMMARY = "corpus.json"
"""Written last: where it exists, the texts are complete."""
KINDS = {
    "folio": "plays of Shakespeare's First Folio of 1623: the domain",
    "manuals": "manuals of cloud services: replay, against forgetting",
    "folio_heldout": "other plays of the Folio (openings): measured only",
    "python_heldout": "pages of Python's manual (openings): measured only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One verb. ``after``: the step is done when its ``output`` is newer than these."""

    title: str
    words: tuple[str, ...]
    output: Path | None = None
    after: tuple[Path, ...] = ()
    may_exit: tuple[int, ...] = (0,)

    def is_done(self) -> bool:
        if self.output is None or not self.output.exists():
            return False
        made_ns = self.output.stat().st_mtime_ns
        return all(path.exists() and path.stat().st_mtime_ns <= made_ns for path in self.after)


def run(say: Say) -> int:
    """All steps, then the table; 1 where the gate declared in the configuration has failed."""
    say("Text and model, from Python packages")
    for line in corpus_lines(write_corpus(DATA)):
        say(f"  {line}")
    write_questions(DATA)
    discard_old_model(say)
    write_smollm2_folder(MODEL)
    say(f"  SmolLM2-135M in {MODEL}\n")
    for step in before_training():
        _perform(step, say=say)
    discard_other_run(say)
    _train(say)
    code = 0
    for step in after_training(_checkpoint()):
        code = max(code, _perform(step, say=say))
    say(closing_table(RUN, megacpt=command_name()))
    return code


def before_training() -> list[Step]:
    return [
        Step(
            title=f"Tokenize {name}",
            words=tokenize_words(DATA / f"{name}.jsonl", output=DATA / name),
            output=DATA / f"{name}.json",
            after=(DATA / f"{name}.jsonl", MODEL / "tokenizer.json"),
        )
        for name in SHARDS
    ]


def tokenize_words(jsonl: Path, *, output: Path) -> tuple[str, ...]:
    return ("tokenize", str(jsonl), "--tokenizer", str(MODEL), "--output", str(output))


def after_training(checkpoint: Path) -> list[Step]:
    evaluation, report = RUN / "evaluation.json", RUN / "report.json"
    certificate = RUN / "hf" / "certificate.json"
    return [
        Step(
            title="Measure what was gained and what was forgotten",
            words=("evaluate", str(RUN)),
            output=evaluation,
            after=(checkpoint, *(DATA / f"{name}.yaml" for name in TASKS)),
            may_exit=(0, GATE_FAILED, NOT_ENOUGH_ITEMS),
        ),
        Step(
            title="Write the Hugging Face folder",
            words=("export", str(RUN)),
            output=certificate,
            after=(checkpoint,),
        ),
        Step(
            title="Write the report",
            words=("report", str(RUN)),
            output=report,
            after=(evaluation, certificate),
        ),
    ]


def command_name() -> str:
    """The command as the user can type it here, whether the environment is activated or not."""
    script = Path(sys.executable).with_name("megacpt")
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def discard_old_model(say: Say) -> None:
    if is_outdated(MODEL):
        say(f"  {MODEL} is of an earlier version, whose tokenizer gave numbers other ids than the")
        say("  model was trained with: it is made again, and so is all that was made with it")
        shutil.rmtree(MODEL)


def discard_other_run(say: Say) -> None:
    """A run goes on with the tokens that it began with."""
    folder = newest(RUN / "checkpoints")
    if folder is None:
        return
    record = DataRecord.from_json(CheckpointManifest.read(folder).data)
    shards = {name: IndexedShard(DATA / name) for name in record.contents}
    if record.contents != contents_of(shards):
        say(f"\n{RUN} was trained on other tokens than {DATA} holds now: removed, trained again")
        shutil.rmtree(RUN)


def _train(say: Say) -> None:
    """Plan and train, unless the last step's checkpoint is there."""
    steps = compose([EXPERIMENT]).schedule.steps
    folder = newest(RUN / "checkpoints")
    if folder is not None and CheckpointManifest.read(folder).step >= steps:
        say(f"Done before: plan and train ({steps} steps)")
        return
    _perform(Step(title="See what the run will do", words=("plan", EXPERIMENT)), say=say)
    _perform(Step(title="Train", words=("train", EXPERIMENT)), say=say)


def _checkpoint() -> Path:
    folder = newest(RUN / "checkpoints")
    if folder is None:
        raise EnvironmentError_(f"Training has left no checkpoint in {RUN}; start it again.")
    return folder / "manifest.json"


def _perform(step: Step, *, say: Say) -> int:
    """Run one verb, its output straight to the user's; its exit code where that is no failure."""
    if step.is_done():
        say(f"Done before: {step.title[0].lower()}{step.title[1:]}")
        return 0
    command: Sequence[Any] = [command_name(), *step.words]
    say(f"\n{step.title}\n$ {shlex.join(command)}")
    code = ended(command)
    if code not in step.may_exit or (step.output is not None and not step.is_done()):
        raise EnvironmentError_(
            f"megacpt {step.words[0]} ended with exit code {code}, see above; "
            "start the quickstart again to go on from there."
        )
    return code


def ended(command: Sequence[Any]) -> int:
    """The exit code of a command; Ctrl-C, which it gets from the terminal, too, is waited for:
    training saves first."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def write_corpus(folder: Path) -> dict[str, Any]:
    """Write NAME.jsonl of every source and held-out set, unless done; the numbers about them."""
    summary = folder / SUMMARY
    if not summary.exists():
        write_text(summary, text=json.dumps(_write_documents(folder), indent=2) + "\n")
    written: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return written


def _write_documents(folder: Path) -> dict[str, Any]:
    """Held-out works are in no source, nor are paragraphs that nearly repeat one of theirs."""
    plays, pages = texts.plays(), texts.pages()
    heldout_plays = [plays.pop(name) for name in texts.HELD_OUT_PLAYS]
    sources, heldout = {}, {}
    for name, documents in {"folio": [*plays.values()], "manuals": texts.manuals()}.items():
        kept, overlap = without_near_duplicates(documents, heldout=[*heldout_plays, *pages])
        sources[name] = _write(kept, path=folder / f"{name}.jsonl") | {"overlap": asdict(overlap)}
    for name, works, characters in (
        ("folio_heldout", heldout_plays, texts.PLAY_EXCERPT),
        ("python_heldout", pages, texts.PAGE_EXCERPT),
    ):
        excerpts = [replace(w, text=opening(w.text, characters=characters)) for w in works]
        heldout[name] = _write(excerpts, path=folder / f"{name}.jsonl")
    return {"sources": sources, "heldout": heldout}


def _write(documents: Sequence[SourcedText], *, path: Path) -> dict[str, Any]:
    lines = (json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents)
    write_text(path, text="".join(lines))
    return {"documents": len(documents), "characters": sum(len(d.text) for d in documents)}


def opening(text: str, *, characters: int) -> str:
    """The first whole paragraphs within ``characters``; the bare cut where there is none."""
    if len(text) <= characters:
        return text
    end = text.rfind("\n\n", 0, characters + 2)
    return text[: end if end > 0 else characters]


def corpus_lines(numbers: Mapping[str, Any]) -> Iterator[str]:
    """A line a file, for 80 columns, and below a source what it shares with held-out works."""
    for name, found in (numbers["sources"] | numbers["heldout"]).items():
        yield f"{name:<16}{found['documents']:>4} {KINDS[name]}"
        if "overlap" in found:
            removed, shared = found["overlap"]["removed"], found["overlap"]["shared_after"]
            yield f"{'':<21}{removed} near-duplicates of held-out paragraphs removed,"
            yield f"{'':<21}{shared:.2%} of held-out five-word runs still in it"


def closing_table(run: Path, *, megacpt: str) -> str:
    """Figures of report.json, and what to do next."""
    report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    rows = [_table_row(change) for change in report["heldout"].values()]
    folder = run / "hf"
    return "\n".join(
        [
            "",
            f"{'held-out perplexity':<24}{'base':>9}{'final':>9}{'final/base':>12}",
            *rows,
            f"{'forgetting':<24}{report['forgetting']:>+30.4f} nats a token",
            f"gate declared before training: {report['gate']['verdict']}",
            "",
            *_suite_rows(checks_of(report["layers"])),
            f"Hugging Face folder  {folder}",
            f"Report               {run / 'report.html'}",
            "",
            'Next, your own text: one JSON object a line, {"text": "..."}; then',
            f"  {megacpt} tokenize YOUR.jsonl --tokenizer {folder} --output data/yours",
        ]
    )


def _table_row(change: Mapping[str, Any]) -> str:
    base, final = change["base"]["perplexity"], change["final"]["perplexity"]
    return f"{change['role']:<24}{base:>9.2f}{final:>9.2f}{change['ratio']:>12.3f}"


def _suite_rows(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """None for a run that began before there were questions."""
    if not checks:
        return
    yield f"{'which of four is the':<24}{'base':>9}{'final':>9}{POINTS:>36}"
    for check in checks:
        interval = f"[{check['low_points']:+.1f}, {check['high_points']:+.1f}]"
        yield (
            f"{TASKS[check['suite']]:<24}{check['base']:>9.3f}{check['final']:>9.3f}"
            f"{check['difference_points']:>+12.1f} {interval:>16}"
        )
    yield ""
