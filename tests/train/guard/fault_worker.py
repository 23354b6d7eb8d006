# SPDX-License-Identifier: Apache-2.0
"""Started once a rank by the tests of faults: trains runs one after another.

    python fault_worker.py WORK_DIR '{"runs": [SETTINGS, ...]}'

Each is trained by the product's own loop in its run folder. ``cut`` makes a run go on from the
folder of another one as a kill would have left it: {"of": RUN, "after": STEP, "event_written":
BOOL} keeps the checkpoints up to STEP. Rank 0 writes RUN_DIR/outcome.json.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from megacpt.config.sections import ClusterConfig, DeviceKind, RunConfig
from megacpt.device import runtime
from megacpt.device.environment import RankInfo, rank_from_environment
from megacpt.errors import TrainingFault


def main() -> None:
    runs = json.loads(sys.argv[2])["runs"]
    ranks = rank_from_environment()
    assert isinstance(ranks, RankInfo)
    cluster = ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1, timeout_minutes=2)
    rank_runtime = runtime.start(ranks, cluster=cluster)
    for changes in runs:
        cut = changes.pop("cut", None)
        config = run_config(changes)
        if cut is not None and ranks.rank == 0:
            copy_cut(Path(config.run_dir), **cut)
        train(config, rank_runtime)
    runtime.stop()


def run_config(changes: dict[str, Any]) -> RunConfig:
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), changes))
    assert isinstance(config, RunConfig)
    return config


def copy_cut(folder: Path, *, of: str, after: int, event_written: bool) -> None:
    """What is on the disk when a run is killed with its newest checkpoint at step ``after``."""
    shutil.copytree(folder.parent / of, folder)
    (folder / "checkpoints" / "latest").unlink(missing_ok=True)
    for checkpoint in (folder / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > after:
            shutil.rmtree(checkpoint)
    if not event_written:
        (folder / "faults.jsonl").unlink(missing_ok=True)


def train(config: RunConfig, rank_runtime: runtime.Runtime) -> None:
    """As megacpt.train.assembly does, but in a process that goes on afterwards."""
    from megatron.core import parallel_state

    from megacpt.device.groups import initialise_parallel
    from megacpt.train.assembly import assemble, find_position, fit, open_journal

    initialise_parallel(config.parallel, seed=config.seed)
    run = assemble(config, runtime=rank_runtime)
    position = find_position(run)
    is_first = rank_runtime.ranks.rank == 0
    journal = open_journal(run, position=position) if is_first else None
    error = ""
    try:
        fit(run, position=position, journal=journal)
    except TrainingFault as fault:
        error = str(fault)
    if is_first:
        outcome = {"error": error, "weights": weights_hash(run.state.chunks)}
        (run.run_dir / "outcome.json").write_text(json.dumps(outcome))
    del run
    gc.collect()
    parallel_state.destroy_model_parallel()


def weights_hash(chunks: list[Any]) -> str:
    """Of this rank's part, bit for bit."""
    digest = hashlib.sha256()
    for chunk in chunks:
        for name, param in chunk.named_parameters():
            digest.update(name.encode())
            digest.update(param.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
