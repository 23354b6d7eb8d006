# SPDX-License-Identifier: Apache-2.0
"""A rank that goes through the preflight and joins, as a training rank does, and ends.

    python preflight_worker.py RUN_DIR SETTINGS_JSON

Each process is a node of its own (LOCAL_WORLD_SIZE=1). The exit code is that of a rank; the last
line on stdout is the error, or ``passed``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import timedelta

import torch

from megacpt.config.sections import ClusterConfig, DeviceKind, PreflightConfig, RunConfig
from megacpt.device import runtime
from megacpt.device.environment import rank_from_environment
from megacpt.errors import MegacptError
from megacpt.train import preflight


def main(run_dir: str, settings: dict[str, float]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    limits = PreflightConfig(**{"appear_s": 60.0, "limit_s": 30.0} | settings)  # type: ignore[arg-type]
    cluster = ClusterConfig(device=DeviceKind.cpu, preflight=limits)
    config = RunConfig(run_dir=run_dir, cluster=cluster)
    ranks = rank_from_environment()
    assert ranks is not None
    assert preflight.is_wanted(config, ranks=ranks)
    try:
        checked = preflight.look(config, ranks=ranks)
        device = runtime.start(ranks, cluster, store=checked.store).device
        checked.check_links(device)
    except MegacptError as error:
        print(error)
        return error.exit_code
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    assert total.item() == ranks.world_size
    torch.distributed.monitored_barrier(timeout=timedelta(seconds=20))
    print("passed")
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1], json.loads(sys.argv[2]))
    sys.stdout.flush()
    os._exit(code)
