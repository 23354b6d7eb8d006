# SPDX-License-Identifier: Apache-2.0
"""The scores that a run folder holds, as the suites that the gate judges.

RUN_DIR/benchmarks/base/SUITE.jsonl      the untouched base model
RUN_DIR/benchmarks/base-2/SUITE.jsonl    again, with another seed or order of the prompt
RUN_DIR/benchmarks/final/SUITE.jsonl     the newest checkpoint
RUN_DIR/benchmarks/step-100/SUITE.jsonl  the checkpoint of that step, in training
RUN_DIR/usefulness/{base,final}/SUITE.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megacpt.config.paths import RunFolder
from megacpt.evaluate.items import read_scores
from megacpt.evaluate.suite_gate import Role, Suite


def benchmarks(
    run_dir: Path,
    *,
    roles: Mapping[str, str],
    decontaminated: Mapping[str, bool] | None = None,
    final: str = "final",
) -> dict[str, Suite]:
    """Those of ``roles`` that base and ``final`` (or ``step-N``) were measured on."""
    folder, known = RunFolder(run_dir).benchmarks, decontaminated or {}
    return {
        name: _suite(
            folder, name=name, role=Role(role), final=final, decontaminated=known.get(name)
        )
        for name, role in roles.items()
        if _is_measured(folder, name=name, final=final)
    }


def usefulness(run_dir: Path) -> dict[str, Suite]:
    """All there are; questions of the user's own are not looked for in the text trained on."""
    folder = RunFolder(run_dir).usefulness
    return {
        name: _suite(folder, name=name, role=Role.usefulness, final="final", decontaminated=None)
        for name in sorted(path.stem for path in (folder / "base").glob("*.jsonl"))
        if _is_measured(folder, name=name, final="final")
    }


def _is_measured(folder: Path, *, name: str, final: str) -> bool:
    return all((folder / label / f"{name}.jsonl").exists() for label in ("base", final))


def _suite(
    folder: Path, *, name: str, role: Role, final: str, decontaminated: bool | None
) -> Suite:
    base = read_scores(folder / "base" / f"{name}.jsonl")
    again = sorted(folder.glob(f"base-*/{name}.jsonl"))
    return Suite(
        role=role,
        base=base,
        final=read_scores(folder / final / f"{name}.jsonl"),
        repeats=(base, *map(read_scores, again)),
        decontaminated=decontaminated,
    )
