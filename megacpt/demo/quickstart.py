# SPDX-License-Identifier: Apache-2.0
"""The quickstart: one small real case through the real verbs, each command shown as it is run.

A step that is done is known by the files it left, so that an interrupted quickstart goes on where
it was when it is started again.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.checkpoint.folders import newest
from megacpt.checkpoint.manifest import CheckpointManifest
from megacpt.config.compose import compose
from megacpt.demo.base_model import write_smollm2_folder
from megacpt.demo.corpus import write_corpus
from megacpt.demo.table import closing_table, corpus_lines
from megacpt.errors import EnvironmentError_

ROOT = Path("quickstart")
"""Relative, as in configs/experiment/quickstart.yaml; delete it to start from nothing."""
DATA, MODEL, RUN = ROOT / "data", ROOT / "model", ROOT / "run"
EXPERIMENT = "experiment=quickstart"
SHARDS = ("folio", "manuals", "folio_heldout", "python_heldout")
GATE_FAILED = 1
Say = Callable[[str], None]


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
    write_smollm2_folder(MODEL)
    say(f"  SmolLM2-135M in {MODEL}\n")
    for step in before_training():
        _perform(step, say=say)
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
            after=(checkpoint,),
            may_exit=(0, GATE_FAILED),
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
    code = subprocess.run(command, check=False).returncode
    if code not in step.may_exit or (step.output is not None and not step.is_done()):
        raise EnvironmentError_(
            f"megacpt {step.words[0]} ended with exit code {code}, see above; "
            "start the quickstart again to go on from there."
        )
    return code
