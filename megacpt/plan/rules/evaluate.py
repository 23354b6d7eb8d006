# SPDX-License-Identifier: Apache-2.0
"""What held-out sets and gates must keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megacpt.config.sections import (
    BenchmarkRole,
    EvaluateConfig,
    GateAction,
    HeldoutConfig,
    SourceConfig,
)
from megacpt.errors import Violation
from megacpt.plan.rules import Facts, Rule
from megacpt.plan.rules.data import text_is_named


def _sets(facts: Facts) -> Iterator[Violation]:
    evaluate = facts.config.evaluate
    for name, heldout in evaluate.heldout.items():
        yield from text_is_named(f"evaluate.heldout.{name}", item=heldout)
    for role, chosen in (("general", evaluate.general), ("domain", evaluate.domain)):
        if chosen is not None and chosen not in evaluate.heldout:
            known = ", ".join(evaluate.heldout)
            yield Violation(
                path=f"evaluate.{role}",
                value=chosen,
                rule=f"is not among evaluate.heldout ({known or 'none'})",
                remedy=f"set evaluate.heldout.{chosen}.prefix=SHARD"
                + (f" or name one of {known}" if known else ""),
            )


def _sets_are_held_out(facts: Facts) -> Iterator[Violation]:
    """A held-out set that is also trained on measures nothing."""
    sources = {_text(source): name for name, source in facts.config.data.sources.items()}
    for name, heldout in facts.config.evaluate.heldout.items():
        source = sources.get(_text(heldout))
        if source is not None:
            kind = "prefix" if heldout.prefix else "synthetic"
            yield Violation(
                path=f"evaluate.heldout.{name}.{kind}",
                value=heldout.prefix or heldout.synthetic,
                rule=f"is also trained on, as data.sources.{source}",
                remedy="hold out other documents",
            )


def _text(item: SourceConfig | HeldoutConfig) -> tuple[object, ...]:
    """What two items with the same text have in common."""
    if item.synthetic is not None and not item.prefix:
        return ("synthetic", item.synthetic.topic, item.synthetic.seed)
    return ("prefix", item.prefix or id(item))


def _gate(facts: Facts) -> Iterator[Violation]:
    evaluate = facts.config.evaluate
    gate = evaluate.gate
    thresholds = {
        "domain_perplexity_ratio_max": ("domain", gate.domain_perplexity_ratio_max),
        "general_perplexity_ratio_max": ("general", gate.general_perplexity_ratio_max),
        "forgetting_max_nats": ("general", gate.forgetting_max_nats),
    }
    names = {"domain": evaluate.domain, "general": evaluate.general}
    for setting, (role, threshold) in thresholds.items():
        if threshold is not None and names[role] is None:
            yield Violation(
                path=f"evaluate.gate.{setting}",
                value=threshold,
                rule=f"needs a {role} set, but evaluate.{role} is not set",
                remedy=f"set evaluate.{role}=NAME, one of evaluate.heldout",
            )


def _gate_of_suites(facts: Facts) -> Iterator[Violation]:
    """A limit that nothing is measured for is never passed."""
    gate, suites = facts.config.evaluate.gate, facts.config.evaluate.benchmarks
    limits = {
        "retention_drop_max_points": (BenchmarkRole.retention, gate.retention_drop_max_points),
        "gain_min_points": (BenchmarkRole.gain, gate.gain_min_points),
    }
    for setting, (role, limit) in limits.items():
        if limit is not None and all(suite.role is not role for suite in suites.values()):
            yield Violation(
                path=f"evaluate.gate.{setting}",
                value=limit,
                rule=f"needs a benchmark of role {role.name}, and there is none",
                remedy=f"set evaluate.benchmarks.NAME.role={role.name} of one, or leave it out",
            )


def _stop_in_training(facts: Facts) -> Iterator[Violation]:
    evaluate = facts.config.evaluate
    gate, suites = evaluate.gate, evaluate.benchmarks
    watched = any(s.role is BenchmarkRole.retention and s.every_steps > 0 for s in suites.values())
    if gate.action is GateAction.stop and not watched and gate.stop_forgetting_nats is None:
        yield Violation(
            path="evaluate.gate.action",
            value=gate.action.name,
            rule="needs a benchmark of role retention that is measured in training, or a limit of "
            "forgetting",
            remedy="set role=retention and every_steps of one of evaluate.benchmarks, or "
            "evaluate.gate.stop_forgetting_nats",
        )
    yield from _stop_at_forgetting(evaluate)


def _stop_at_forgetting(evaluate: EvaluateConfig) -> Iterator[Violation]:
    limit = evaluate.gate.stop_forgetting_nats
    if limit is None:
        return
    for is_right, rule, remedy in (
        (
            evaluate.gate.action is GateAction.stop,
            "ends no run unless evaluate.gate.action is stop",
            "set evaluate.gate.action=stop, or leave it out",
        ),
        (
            evaluate.general is not None,
            "needs a general set, but evaluate.general is not set",
            "set evaluate.general=NAME, one of evaluate.heldout",
        ),
        (
            evaluate.every_steps > 0,
            "is never looked at, as evaluate.every_steps is 0",
            "set evaluate.every_steps, such as 100",
        ),
    ):
        if not is_right:
            yield Violation(
                path="evaluate.gate.stop_forgetting_nats", value=limit, rule=rule, remedy=remedy
            )


def _benchmarks(facts: Facts) -> Iterator[Violation]:
    """What needs no lm-eval; it checks the rest itself (megacpt.evaluate.benchmarks.tasks)."""
    for name, benchmark in facts.config.evaluate.benchmarks.items():
        path, task = f"evaluate.benchmarks.{name}", benchmark.task
        if not task:
            yield Violation(
                path=f"{path}.task",
                value=task,
                rule="names no task",
                remedy=f"set {path}.task to one of lm-eval or to a YAML file",
            )
        elif benchmark.names_file and not Path(task).is_file():
            yield Violation(
                path=f"{path}.task",
                value=task,
                rule="does not exist",
                remedy="give a YAML file in the form of lm-eval's tasks",
            )
        folder = benchmark.include_path
        if folder is not None and not Path(folder).is_dir():
            yield Violation(
                path=f"{path}.include_path",
                value=folder,
                rule="is no folder",
                remedy="give the folder of your YAML files, or leave it out",
            )


def _names(facts: Facts) -> Iterator[Violation]:
    """Benchmarks and questions stand beside each other in evaluation.json, by their names."""
    evaluate = facts.config.evaluate
    for name in evaluate.usefulness:
        if name in evaluate.benchmarks:
            yield Violation(
                path=f"evaluate.usefulness.{name}.questions",
                value=evaluate.usefulness[name].questions,
                rule=f"has the name of a benchmark, evaluate.benchmarks.{name}",
                remedy="give one of the two another name",
            )


RULES: tuple[Rule, ...] = (
    _sets,
    _sets_are_held_out,
    _gate,
    _gate_of_suites,
    _stop_in_training,
    _benchmarks,
    _names,
)
