# SPDX-License-Identifier: Apache-2.0
"""A run's suites: loaded once on the first rank, measured with any weights.

Scores of single items go to RUN_DIR/benchmarks/LABEL/SUITE.jsonl (megacpt.evaluate.items), answers
to RUN_DIR/benchmarks/answers, where the next measurement of the same weights finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.config.sections import EvaluateConfig
from megacpt.device.collective import from_first_rank
from megacpt.errors import ModelError
from megacpt.evaluate.benchmarks.calls import Model, led_by_first_rank
from megacpt.evaluate.benchmarks.engine import Engine
from megacpt.evaluate.benchmarks.fingerprint import weights_digest
from megacpt.evaluate.benchmarks.progress import SILENT, Progress
from megacpt.evaluate.benchmarks.samples import items_of
from megacpt.evaluate.benchmarks.sandbox import kept_apart
from megacpt.evaluate.benchmarks.tasks import (
    LoadedSuite,
    load_suite,
    metric_of,
    require_chat_template,
)
from megacpt.evaluate.heldout import evaluating
from megacpt.evaluate.items import Scores, write_scores
from megacpt.evaluate.journal import AnswerJournal
from megacpt.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One suite of one model."""

    metric: str
    mean: float
    num_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suites:
    evaluate: EvaluateConfig
    folder: Path
    """RUN_DIR/benchmarks."""
    tokenizer: Tokenizer
    max_length: int
    arithmetic: str
    """The precision in words: the same weights answer otherwise in another."""
    loaded: Mapping[str, LoadedSuite]
    """On the first rank; elsewhere none is."""

    @classmethod
    def open(
        cls,
        evaluate: EvaluateConfig,
        *,
        run_dir: Path,
        tokenizer: Tokenizer,
        max_length: int,
        arithmetic: str,
    ) -> Suites:
        """Refuse what cannot be measured; a collective call."""
        loaded: dict[str, LoadedSuite] = {}

        def load() -> None:
            require_chat_template(evaluate, tokenizer=tokenizer)
            for name, config in evaluate.benchmarks.items():
                loaded[name] = load_suite(name, config=config, execute_code=evaluate.execute_code)

        from_first_rank(load)
        return cls(
            evaluate=evaluate,
            folder=run_dir / "benchmarks",
            tokenizer=tokenizer,
            max_length=max_length,
            arithmetic=arithmetic,
            loaded=loaded,
        )

    def due(self, step: int) -> list[str]:
        """What is measured in training at this step; 0 is the base."""
        return [
            name
            for name, benchmark in self.evaluate.benchmarks.items()
            if benchmark.every_steps > 0 and step % benchmark.every_steps == 0
        ]

    def measure(
        self,
        chunks: Sequence[Any],
        *,
        label: str,
        names: Sequence[str],
        draw: int = 0,
        progress: Progress = SILENT,
    ) -> dict[str, Measured]:
        """``label``: base, base-N, final or step-N. ``draw``: added to the seed of the solved
        examples. A collective call, the same on every rank."""
        if not names:
            return {}
        with evaluating(chunks):
            model = weights_digest(chunks, arithmetic=self.arithmetic)
        engine = Engine.over(chunks, max_length=self.max_length, decode=self.tokenizer.decode)

        def work(asked: Model) -> dict[str, Measured]:
            # It imports lm-eval, which only this rank needs.
            from megacpt.evaluate.benchmarks.lm import NativeLM

            found = {}
            with (
                closing(AnswerJournal(self.folder / "answers" / f"{model}.jsonl")) as journal,
                closing(progress),
            ):
                lm = NativeLM(asked, tokenizer=self.tokenizer, journal=journal, progress=progress)
                for name in names:
                    progress.begin(f"{name}: {label}")
                    scores = self._scores(name, model=model, lm=lm, draw=draw)
                    found[name] = self._write(scores, label=label)
            return found

        return led_by_first_rank(engine, work=work, progress=progress)

    def _scores(self, name: str, *, model: str, lm: Any, draw: int) -> Scores:
        suite = self.loaded[name]
        with kept_apart(suite):
            samples = run_suite(suite, lm=lm, seed=suite.config.seed + draw)
        return Scores(
            suite=name,
            metric=metric_of(suite),
            model=model,
            items=items_of(suite, samples=samples),
        )

    def _write(self, scores: Scores, *, label: str) -> Measured:
        write_scores(self.folder / label / f"{scores.suite}.jsonl", scores=scores)
        return Measured(metric=scores.metric, mean=scores.mean, num_items=len(scores.items))


def run_suite(
    suite: LoadedSuite, *, lm: Any, seed: int
) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """lm-eval's record of each item, by task. ``lm``: any model of lm-eval.

    ``ModelError`` where the perplexity of a diverged model is larger than a float.
    """
    from lm_eval.evaluator import evaluate

    for task in suite.tasks.values():
        task.set_fewshot_seed(seed=seed)
    try:
        result = evaluate(
            lm=lm,
            task_dict=suite.loaded,
            limit=suite.config.limit or None,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=suite.config.chat,
            # Without the user's word for it, such a task was not loaded.
            confirm_run_unsafe_code=True,
        )
    except OverflowError as error:
        raise ModelError(
            f"suite {suite.name}: lm-eval's sum of the items is no number any more ({error}): the "
            "model has diverged. Evaluate an earlier checkpoint, or train with a lower "
            "optim.lr_peak."
        ) from error
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = result["samples"]
    return samples
