# SPDX-License-Identifier: Apache-2.0
"""One node that goes through preflights as a training rank does, and notes how each ends.

Each process is a node of its own (LOCAL_WORLD_SIZE=1). A case: ``settings`` of cluster.preflight,
``before``: rank -> shell command run there, ``path``: rank -> folder put first on sys.path,
``run_dir``, ``absent``: ranks that do not take part.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megacpt.config.schema import to_tree
from megacpt.config.sections import (
    BadNodePolicy,
    ClusterConfig,
    DeviceKind,
    PreflightConfig,
    PreflightWhen,
    RunConfig,
)
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment
from megacpt.errors import MegacptError
from megacpt.preflight import is_wanted, preflight


def go_through(work: Path, cases: dict[str, dict[str, Any]]) -> None:
    logging.getLogger("megacpt").setLevel(logging.INFO)
    first = rank_from_environment()
    assert first is not None
    for number, (name, case) in enumerate(cases.items()):
        ranks = replace(first, master_port=first.master_port + number)
        if ranks.rank in case.get("absent", ()):
            continue
        said: list[str] = []
        handler = Lines(said)
        logging.getLogger("megacpt").addHandler(handler)
        try:
            end = {"code": 0, "message": run(case, work=work, ranks=ranks)}
        except MegacptError as error:
            end = {"code": error.exit_code, "message": str(error)}
        logging.getLogger("megacpt").removeHandler(handler)
        (work / f"{name}.{ranks.rank}.json").write_text(json.dumps(end | {"said": said}))
    # Not by way of the libraries, which wait for nodes that are gone.
    sys.stdout.flush()
    os._exit(0)


class Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def run(case: dict[str, Any], *, work: Path, ranks: RankInfo) -> str:
    rank = str(ranks.rank)
    if rank in case.get("before", {}):
        subprocess.run(case["before"][rank], shell=True, check=True)
    if rank in case.get("path", {}):
        sys.path.insert(0, case["path"][rank])
    settings = {"appear_s": 60.0, "limit_s": 30.0} | case.get("settings", {})
    settings["when"] = PreflightWhen[settings.get("when", "nodes")]
    settings["on_bad"] = BadNodePolicy[settings.get("on_bad", "stop")]
    cluster = ClusterConfig(device=DeviceKind.cpu, preflight=PreflightConfig(**settings))
    config = RunConfig(run_dir=case.get("run_dir", str(work / "run")), cluster=cluster)
    try:
        assert is_wanted(cluster.preflight, ranks=ranks)
        checked = preflight.check_nodes(
            ranks, run_dir=Path(config.run_dir), cluster=cluster, settings=to_tree(config)
        )
        device = runtime.start(ranks, cluster=cluster, store=checked.store).device
        checked.check_links(device)
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        torch.distributed.barrier()
        return f"{total.item():.0f} ranks"
    finally:
        runtime.stop()
        if rank in case.get("path", {}):
            sys.path.remove(case["path"][rank])
