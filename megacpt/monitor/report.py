# SPDX-License-Identifier: Apache-2.0
"""RUN_DIR/report.json and report.html: what the run gained and forgot, and all it rests on.

The page is one file that asks for nothing else: styles and curves are inside it, and its content
security policy forbids every request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from megacpt.config.compose import read_run_yaml, render
from megacpt.config.hub_model import named
from megacpt.config.paths import RunFolder
from megacpt.config.schema import to_tree
from megacpt.config.sections import RunConfig
from megacpt.errors import DataError
from megacpt.files import write_text
from megacpt.monitor.figures import draw_all
from megacpt.monitor.layers import interval_figure
from megacpt.monitor.metrics import StepRecord, json_safe, read_metrics
from megacpt.monitor.summary import RunFiles, Summary, summarise
from megacpt.monitor.terminal import (
    fault_consequence,
    fault_value,
    printable,
    sample_origin,
)
from megacpt.plan.learning_rate import describe
from megacpt.text import count, duration


def write_report(run_dir: Path) -> Summary:
    """Write both files; a run that still trains gets a report of what is known so far."""
    config = read_run_yaml(run_dir / "run.yaml")
    files = read_run(run_dir, config=config)
    summary = summarise(files)
    page = html(summary, config=config, records=files.records)
    write_text(run_dir / "report.json", text=json.dumps(json_safe(summary), indent=2) + "\n")
    write_text(run_dir / "report.html", text=page)
    return summary


def read_run(run_dir: Path, *, config: RunConfig) -> RunFiles:
    records = read_metrics(run_dir / "metrics.jsonl")
    if not records:
        raise DataError(
            f"{run_dir}/metrics.jsonl has no record yet: the run has not measured its base model; "
            "wait for its first line, or start it with `megacpt train`"
        )
    return run_files(run_dir, config=config)


def run_files(run_dir: Path, *, config: RunConfig) -> RunFiles:
    """All that is there, which may be no record at all."""
    metrics = run_dir / "metrics.jsonl"
    exported = RunFolder(run_dir).export_of(adapter=config.adapter is not None)
    return RunFiles(
        name=run_dir.resolve().name,
        config=config,
        config_tree=to_tree(config),
        records=read_metrics(metrics) if metrics.exists() else [],
        plan=_read_json(run_dir / "plan.json"),
        environment=_read_json(run_dir / "environment.json"),
        evaluation=_read_json(run_dir / "evaluation.json"),
        certificate=_read_json(exported / "certificate.json"),
    )


def html(summary: Summary, *, config: RunConfig, records: Sequence[StepRecord]) -> str:
    figures = draw_all(
        records,
        heldout_sets=list(summary["heldout"]),
        clip_grad_norm=config.optim.clip_grad_norm,
    )
    certificate = summary["certificate"]
    return page_of(
        "report.html.jinja",
        s=summary,
        settings=settings(config) | found_settings(summary["environment"] or {}),
        environment=environment_facts(summary["environment"] or {}),
        certificate=certificate_facts(certificate) if certificate else {},
        heldout_figures=[Markup(figure) for figure in figures.heldout],
        training_figures=[Markup(figure) for figure in figures.training],
        config_yaml=render(config),
    )


def page_of(template: str, **values: object) -> str:
    """One file, its styles inside."""
    css = resources.files("megacpt.monitor").joinpath("report.css").read_text(encoding="utf-8")
    return _templates().get_template(template).render(css=Markup(css), **values)


def settings(config: RunConfig) -> dict[str, str]:
    """The settings a reader asks for first."""
    data, parallel, optim = config.data, config.parallel, config.optim
    layout = f"tp {parallel.tp} x cp {parallel.cp} x pp {parallel.pp} x dp {parallel.dp}"
    batch = f"{data.global_batch_size} samples of {data.sequence_length} tokens"
    return {
        "Base model": str(named(config.model.path)),
        "First weights": config.model.init.name,
        "Global batch": batch,
        "Learning rate": f"{optim.lr_peak:g} peak, {describe(config.schedule)}",
        "Weight decay": f"{optim.weight_decay:g}",
        "Gradient clipping": f"{optim.clip_grad_norm:g}" if optim.clip_grad_norm else "off",
        "Arithmetic": config.precision.dtype.name,
        "Layout": layout + (f", {parallel.vpp} virtual stages" if parallel.vpp > 1 else ""),
        "Seed": str(config.seed),
    }


def found_settings(environment: Mapping[str, Any]) -> dict[str, str]:
    """As the run's first rank stated them: whether a recipe was emulated, and what share of a model
    an adapter is, shows in no setting."""
    stated = environment.get("settings", {})
    labels = {"arithmetic": "Arithmetic", "adapter": "Adapter"}
    return {label: stated[key] for key, label in labels.items() if key in stated}


def environment_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Label -> text, versions last."""
    labels = {
        "device": "Device",
        "ranks": "Ranks",
        "processor": "Processor",
        "cores": "Cores",
        "memory_gib": "Memory, GiB",
        "host": "Host",
        "platform": "Platform",
        "commit": "Commit",
        "python": "Python",
    }
    known = {label: str(facts[key]) for key, label in labels.items() if facts.get(key)}
    return known | {name: str(version) for name, version in facts.get("versions", {}).items()}


def certificate_facts(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Label -> text of what megacpt.convert.certificate wrote."""
    difference, largest = certificate["max_abs_difference"], certificate["max_abs_logit"]
    tokens = sum(prompt["tokens"] for prompt in certificate["prompts"])
    facts = {
        "Verdict": "certified" if certificate["certified"] else "not certified",
        "Largest logit difference": f"{difference:.2g} (largest logit {largest:.1f}, "
        f"tolerance {certificate['tolerance']:g} relative to it)",
        "Same next token": f"{certificate['argmax_agreement']:.2%} of all positions",
        "Compared on": f"{len(certificate['prompts'])} prompts, {tokens} tokens, in fp32",
    }
    hashes = {name: f"sha256 {digest}" for name, digest in certificate["files"].items()}
    return facts | dict(certificate["versions"]) | hashes


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except ValueError:
        pass
    raise DataError(f"{path} is not a JSON object; delete it and make it again")


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("megacpt", "monitor"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "count": count,
        "duration": duration,
        "fault_consequence": fault_consequence,
        "fault_value": fault_value,
        "printable": printable,
        "sample_origin": sample_origin,
        "interval_figure": lambda check, span: interval_figure(check, span_points=span),
        "share": lambda value: _shown(value, form="{:.1%}"),
        "fixed": lambda value, digits: _shown(value, form=f"{{:.{digits}f}}"),
        "signed": lambda value, digits: _shown(value, form=f"{{:+.{digits}f}}"),
        "change": lambda ratio: _shown(ratio - 1, form="{:+.1%}"),
    }
    return templates


def _shown(value: float | None, *, form: str) -> str:
    """A dash for what is not known; the sign of a negative number is a minus, not a hyphen."""
    if value is None:
        return "\N{EN DASH}"
    return form.format(value).replace("-", "\N{MINUS SIGN}")
