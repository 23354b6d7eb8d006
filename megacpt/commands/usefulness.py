# SPDX-License-Identifier: Apache-2.0
"""The verb that asks both models of a run the user's own questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, run_dir_argument, say, shown
from megacpt.commands.model import model_of_run
from megacpt.commands.serve import served_folder
from megacpt.config.paths import RunFolder
from megacpt.errors import ConfigError
from megacpt.text import LiveLine, count, one_of, rate_text

if TYPE_CHECKING:
    from megacpt.config.sections import RunConfig, ServerConfig
    from megacpt.evaluate.usefulness.answer import Answer, Target
    from megacpt.evaluate.usefulness.suite import Outcome, QuestionSuite

QUIET_S, EVERY_S = 2.0, 15.0
"""Until progress is shown first, and between two lines of it in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """``folder``: as transformers or PEFT reads it; ``beside``: what an adapter was trained
    beside."""

    role: str
    folder: Path
    beside: Path | None
    fingerprint: str


def _usefulness(arguments: argparse.Namespace) -> int:
    from megacpt.config.compose import read_run_yaml
    from megacpt.device.quiet import quiet_libraries

    run_dir = arguments.run_dir
    config = read_run_yaml(run_dir / "run.yaml")
    suites = _suites(config, run_dir=run_dir, names=arguments.suite)
    _require_consent(suites, yes=arguments.yes)
    quiet_libraries()
    models = _models(config, run_dir=run_dir)
    answers = {role: _answers(model, suites=suites) for role, model in models.items()}
    fingerprints = {role: model.fingerprint for role, model in models.items()}
    outcomes = [_scored(suite, answers=answers, fingerprints=fingerprints) for suite in suites]
    print(_table(outcomes))
    for outcome in outcomes:
        _say_losses(outcome)
    folder = shown(RunFolder(run_dir).usefulness)
    say(
        f"Wrote {folder}: answers/SUITE.jsonl to read, base/ and final/SUITE.jsonl of single items",
        next_command=f"megacpt evaluate {shown(run_dir)}",
    )
    return 0


def _suites(config: RunConfig, *, run_dir: Path, names: Sequence[str]) -> list[QuestionSuite]:
    """Read before anything is asked: a broken file or a missing package is told at once."""
    from megacpt.evaluate.usefulness.future_agi import require_ready
    from megacpt.evaluate.usefulness.metrics import metric_of
    from megacpt.evaluate.usefulness.questions import read_questions
    from megacpt.evaluate.usefulness.references import WITHOUT_REFERENCE, require_references
    from megacpt.evaluate.usefulness.suite import QuestionSuite

    declared = config.evaluate.usefulness
    if not declared:
        raise ConfigError(
            f"{run_dir}/run.yaml declares no suite of questions; set "
            "evaluate.usefulness.NAME.questions=FILE and .metric before training."
        )
    unknown = next((name for name in names if name not in declared), None)
    if unknown is not None:
        raise ConfigError(f"--suite {unknown} is not declared; use {one_of(declared)}.")
    found, folder = [], RunFolder(run_dir).usefulness
    for name in names or declared:
        suite = declared[name]
        questions = read_questions(Path(suite.questions), limit=suite.limit)
        require_references(questions, config=suite)
        if suite.future_agi is not None:
            require_ready(suite.future_agi)
        if suite.metric not in WITHOUT_REFERENCE:
            metric_of(suite.metric)
        found.append(QuestionSuite(name=name, config=suite, questions=questions, folder=folder))
    return found


def _require_consent(suites: Sequence[QuestionSuite], *, yes: bool) -> None:
    """What would leave this machine is said first, and nothing does without a yes."""
    from megacpt.evaluate.usefulness.leaving import leaving

    lines = [line for suite in suites for line in leaving(suite)]
    for line in lines:
        print(line, file=sys.stderr)
    if lines and not yes:
        raise ConfigError(
            "nothing was sent: this data would leave this machine, as said above; add --yes to "
            "send it."
        )


def _models(config: RunConfig, *, run_dir: Path) -> Mapping[str, _Model]:
    from megacpt.config.sections import Init
    from megacpt.evaluate.usefulness.weights import fingerprint_of

    if config.model.init is Init.random:
        raise ConfigError(
            f"{run_dir} began with random weights, so there is no base model to compare with; "
            "usefulness is measured of a run that began with model.init=pretrained."
        )
    final, beside = served_folder(str(run_dir))
    base = Path(str(model_of_run(run_dir, weights=True).model.path))
    folders = {"base": (base, None), "final": (final, beside)}
    return {
        role: _Model(
            role=role,
            folder=folder,
            beside=beside,
            fingerprint=fingerprint_of(folder, beside=beside),
        )
        for role, (folder, beside) in folders.items()
    }


def _answers(model: _Model, *, suites: Sequence[QuestionSuite]) -> Mapping[str, list[Answer]]:
    """By suite. The model is served once for all of them, and not at all where others do."""
    from megacpt.evaluate.usefulness.suite import answer

    own = [suite for suite in suites if _server_of(suite, role=model.role) is None]
    answers: dict[str, list[Answer]] = {}
    with _serving(model, is_needed=bool(own)) as url:
        for suite in suites:
            target = _target(model, server=_server_of(suite, role=model.role), url=url)
            with closing(_RateLine(f"{suite.name}: {model.role} model")) as line:
                answers[suite.name] = answer(suite, target=target, progress=line)
    return answers


def _server_of(suite: QuestionSuite, *, role: str) -> ServerConfig | None:
    return suite.config.base if role == "base" else suite.config.candidate


def _target(model: _Model, *, server: ServerConfig | None, url: str) -> Target:
    from megacpt.evaluate.usefulness.answer import Target

    if server is None:
        return Target(role=model.role, fingerprint=model.fingerprint, url=url, name=model.role)
    return Target(
        role=model.role,
        # By the name, too: nobody knows which weights another server has.
        fingerprint=f"{model.fingerprint} as {server.model}",
        url=server.url,
        name=server.model,
        key_variable=server.key_variable,
    )


@contextmanager
def _serving(model: _Model, *, is_needed: bool) -> Iterator[str]:
    if not is_needed:
        yield ""
        return
    # They import torch, so only where a model is served here.
    from megacpt.config.sections import DeviceKind, Dtype
    from megacpt.device.single import single_device
    from megacpt.serve.model import load_served
    from megacpt.serve.server import serving

    served = load_served(
        model.folder,
        base=model.beside,
        name=model.role,
        device=single_device(DeviceKind.auto),
        dtype=Dtype.bf16,
    )
    with serving(served, host="127.0.0.1", port=0, batch_max=16) as url:
        yield url


def _scored(
    suite: QuestionSuite,
    *,
    answers: Mapping[str, Mapping[str, list[Answer]]],
    fingerprints: Mapping[str, str],
) -> Outcome:
    from megacpt.evaluate.usefulness.suite import score

    with closing(_RateLine(f"{suite.name}: scores")) as line:
        return score(
            suite,
            answers={role: found[suite.name] for role, found in answers.items()},
            fingerprints=fingerprints,
            progress=line,
        )


def _table(outcomes: Sequence[Outcome]) -> str:
    head = f"{'suite':<20}{'metric':<24}{'items':>7}{'base':>8}{'final':>8}{'better':>8}{'same':>6}"
    rows = [
        f"{o.suite:<20}{o.metric:<24}{count(o.num_scored):>7}{o.base:>8.3f}{o.final:>8.3f}"
        f"{o.wins:>8}{o.ties:>6}{o.losses:>7}"
        for o in outcomes
    ]
    return "\n".join([f"{head}{'worse':>7}", *rows])


def _say_losses(outcome: Outcome) -> None:
    """What does not show in the means."""
    if outcome.agreement is not None:
        print(f"{outcome.suite}: the judge agrees with itself in {outcome.agreement:.0%} of pairs")
    for role, failures in outcome.failures.items():
        for reason, times in failures.items():
            print(f"{outcome.suite}: {times} answers of the {role} model failed: {reason}")
    for reason, times in outcome.unscored.items():
        print(f"{outcome.suite}: {times} items are left out of both scores: {reason}")


class _RateLine:
    """Shows how far it is, at which rate, and when it ends."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._line = LiveLine(sys.stderr, quiet_s=QUIET_S, every_s=EVERY_S)
        self.close = self._line.close

    def __call__(self, done: int, total: int) -> None:
        if done:
            self._line.show(partial(rate_text, what=self._what, done=done, total=total))


def _arguments(parser: argparse.ArgumentParser) -> None:
    run_dir_argument(parser)
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one of evaluate.usefulness; can be given several times",
    )
    parser.add_argument(
        "--yes", action="store_true", help="send what leaves this machine, which is said before"
    )


USEFULNESS = Verb(
    name="usefulness",
    summary="ask base and trained model your own questions, and score the answers",
    example="  megacpt export runs/tiny\n"
    "  megacpt usefulness runs/tiny\n"
    "  megacpt usefulness runs/tiny --suite law --yes    # a judge on another machine\n"
    "The same command goes on where it was interrupted.",
    add_arguments=_arguments,
    run=_usefulness,
)
