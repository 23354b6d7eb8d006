# SPDX-License-Identifier: Apache-2.0
"""RUN_DIR/bad_nodes.json: machines a preflight has refused, for the next start to leave out.

A launcher asks for ``hosts_to_exclude``, most certain first, and takes as many as it has spare
nodes. A machine that passes a later preflight is taken off the list; an empty list is no file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from megacpt.files import write_text

NAME = "bad_nodes.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadNodeRecord:
    """``reasons``: one sentence each; ``time``: seconds since 1970."""

    host: str
    time: float
    job: str | None
    reasons: list[str]


def read(run_dir: Path) -> list[BadNodeRecord]:
    try:
        text = (run_dir / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [BadNodeRecord(**entry) for entry in json.loads(text)["nodes"]]


def hosts_to_exclude(run_dir: Path) -> list[str]:
    return [record.host for record in read(run_dir)]


def record(
    run_dir: Path,
    *,
    bad: Mapping[str, list[str]],
    good: Iterable[str],
    time: float,
    job: str | None,
) -> None:
    """``bad``: host -> reasons, most certain first; ``good``: hosts nothing was found against."""
    settled = {*bad, *good}
    new = [BadNodeRecord(host=h, time=time, job=job, reasons=why) for h, why in bad.items()]
    nodes = [*new, *(old for old in read(run_dir) if old.host not in settled)]
    if not nodes:
        (run_dir / NAME).unlink(missing_ok=True)
        return
    tree = {"exclude": [node.host for node in nodes], "nodes": [asdict(node) for node in nodes]}
    write_text(run_dir / NAME, text=json.dumps(tree, indent=2) + "\n")
