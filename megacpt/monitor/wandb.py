# SPDX-License-Identifier: Apache-2.0
"""The run in Weights & Biases: one run, each step once, however often it is killed.

The run's id lives in RUN_DIR/wandb_id. A killed process loses what wandb had in its buffers, so a
restart first asks what arrived (online the server, offline wandb's own files) and then logs the
rest of what metrics.jsonl kept. Offline each start writes a folder of its own below RUN_DIR/wandb;
``wandb sync`` joins folders of one id. No source code, git state or terminal output is recorded.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megacpt.config.sections import MonitorConfig, WandbMode
from megacpt.errors import EnvironmentError_
from megacpt.files import write_text
from megacpt.monitor.metrics import FaultRecord, StepRecord
from megacpt.monitor.terminal import fault_consequence, fault_value, sample_origin
from megacpt.monitor.wandb_suites import log_suites
from megacpt.monitor.wandb_variables import Chosen, settle

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 60
BLOCK_BYTES = 32 * 1024
FAULT_COLUMNS = ["step", "fault", "done", "sample", "loss", "excerpt"]
CHUNK_HEADER = struct.Struct("<IHB")


class WandbRun:
    """Takes the records of metrics.jsonl; does nothing where wandb is disabled."""

    def __init__(self, run: Any | None, *, last_step: int) -> None:
        self._run = run
        self._last_step = last_step
        self._base_texts: dict[str, str] = {}
        self._fault_rows: dict[int, list[list[Any]]] = {}

    @classmethod
    def start(
        cls,
        run_dir: Path,
        *,
        config: Mapping[str, Any],
        monitor: MonitorConfig,
        has_api_key: bool,
        records: Sequence[StepRecord],
        variables: Mapping[str, str] | None = None,
    ) -> WandbRun:
        """``config``: the resolved run configuration. ``records``: what metrics.jsonl holds.
        ``variables``: the user's WANDB_* (megacpt.monitor.wandb_variables).

        ``auto`` goes offline where there is no key or the server cannot be reached.
        """
        chosen = settle(
            monitor,
            run_dir=run_dir,
            known_id=_known_id(run_dir / "wandb_id"),
            variables=variables or {},
            has_api_key=has_api_key,
            connect_s=CONNECT_TIMEOUT_S,
        )
        for note in chosen.notes:
            logger.warning("%s", note)
        if chosen.mode is WandbMode.disabled:
            return cls(None, last_step=-1)
        if "dir" in chosen.arguments:
            (run_dir / "wandb").mkdir(parents=True, exist_ok=True)
        run = _connect(run_dir, config=config, chosen=chosen)
        # run.step is the step that the server expects next; offline it is always 0.
        folder = Path(run.settings.wandb_dir)
        last_step = last_step_on_disk(folder, run_id=run.id) if run.offline else run.step - 1
        started = cls(run, last_step=last_step)
        for record in records:
            started.log(record)
        return started

    def log(self, record: StepRecord) -> None:
        if self._run is None:
            return
        step = record["step"]
        if step == 0:
            self._base_texts = {g["prompt"]: g["text"] for g in record.get("generations", [])}
        if "fault" in record:
            self._fault_rows[step] = fault_rows(record["fault"])
        if step > self._last_step:
            tables = self._generations(record) | self._fault(record)
            self._run.log(flat(record) | tables, step=step, commit=True)
            self._last_step = step

    def log_suites(self, checks: Sequence[Mapping[str, Any]], *, step: int) -> None:
        """``checks``: suites of evaluation.json."""
        if self._run is not None and checks:
            log_suites(self._run, checks=checks, step=step)

    def finish(self, *, exit_code: int = 0) -> None:
        if self._run is None:
            return
        import wandb

        self._run.finish(exit_code=exit_code)
        wandb.teardown()  # offline, finish returns before wandb's service has written its file

    def _generations(self, record: StepRecord) -> dict[str, Any]:
        """A table with the untouched base model's text beside the present one."""
        if "generations" not in record:
            return {}
        import wandb

        rows = [
            [record["step"], g["prompt"], self._base_texts.get(g["prompt"], ""), g["text"]]
            for g in record["generations"]
        ]
        return {"generations": wandb.Table(columns=["step", "prompt", "base", "now"], data=rows)}

    def _fault(self, record: StepRecord) -> dict[str, Any]:
        """A table of all faults so far, a line a sample, the worst of each fault first."""
        if "fault" not in record:
            return {}
        import wandb

        rows = [row for rows in self._fault_rows.values() for row in rows]
        return {"faults/samples": wandb.Table(columns=FAULT_COLUMNS, data=rows)}


def fault_rows(event: FaultRecord) -> list[list[Any]]:
    """In the order of FAULT_COLUMNS; text throughout where NaN may stand."""
    shared = [event["step"], fault_value(event), fault_consequence(event)]
    return [
        [*shared, sample_origin(sample), str(sample["loss"]), sample["excerpt"]]
        for sample in event["samples"]
    ]


def flat(record: StepRecord) -> dict[str, float]:
    """``section/name`` -> number; wandb makes one group of panels a section."""
    named = {
        "train/loss": record.get("loss"),
        "train/grad_norm": record.get("grad_norm"),
        "train/lr": record.get("lr"),
        "train/tokens": record.get("tokens"),
        "data/replay_share": record.get("replay_share"),
        "data/sequence_length": record.get("sequence_length"),
        "heldout/forgetting": record.get("forgetting"),
        "speed/tokens_per_s": record.get("tokens_per_s"),
        "speed/mfu": record.get("mfu"),
        "speed/step_s": record.get("step_s"),
        "speed/data_wait_s": record.get("data_wait_s"),
        "speed/checkpoint_stall_s": record.get("checkpoint_stall_s"),
        "speed/checkpoint_write_s": record.get("checkpoint_write_s"),
        "speed/elapsed_s": record.get("elapsed_s"),
        "speed/peak_memory_gib": record.get("peak_memory_gib"),
    }
    for source, loss in record.get("loss_per_source", {}).items():
        named[f"train/loss_{source}"] = loss
    for source, tokens in record.get("tokens_per_source", {}).items():
        named[f"data/tokens_{source}"] = tokens
    for source, samples in record.get("samples_per_source", {}).items():
        named[f"data/samples_{source}"] = samples
    for source, samples in record.get("skipped_samples_per_source", {}).items():
        named[f"faults/skipped_samples_{source}"] = samples
    if "rank_times" in record:
        times = record["rank_times"]
        named["speed/median_rank_s"] = times["median_s"]
        named["speed/slowest_rank_s"] = times["slowest_s"]
        named["speed/slowest_rank"] = times["slowest_rank"]
    if "fault" in record:
        named["faults/event"] = 1
        named["faults/threshold"] = record["fault"]["threshold"]
    for name, benchmark in record.get("benchmarks", {}).items():
        named[f"benchmarks/{name}_{benchmark['metric']}"] = benchmark["mean"]
    for name, heldout in record.get("heldout", {}).items():
        named[f"heldout/{name}_loss"] = heldout["loss"]
        named[f"heldout/{name}_perplexity"] = heldout["perplexity"]
    return {name: value for name, value in named.items() if value is not None}


def _connect(run_dir: Path, *, config: Mapping[str, Any], chosen: Chosen) -> Any:
    import wandb

    try:
        silent = {name: chosen.settings[name] for name in ("silent",) if name in chosen.settings}
        wandb.setup(settings=wandb.Settings(**silent))  # else the login speaks
        arguments = {
            **chosen.arguments,
            "config": dict(config),
            "settings": wandb.Settings(**chosen.settings),
        }
        run = wandb.init(**arguments)
    except wandb.errors.CommError as error:
        refused = isinstance(error, wandb.errors.AuthenticationError)
        if refused or chosen.online_by is not None:
            raise _unusable(refused=refused, online_by=chosen.online_by) from error
        logger.warning("wandb cannot be reached; this run is logged offline")
        wandb.teardown()  # its service still holds the run id of the attempt
        run = wandb.init(**(arguments | {"mode": "offline"}))
    except (wandb.errors.UsageError, ValueError) as error:
        raise EnvironmentError_(
            f"wandb refuses what it is told by WANDB_* variables or below monitor: {error}"
        ) from error
    write_text(run_dir / "wandb_id", text=f"{run.id}\n")
    return run


def _unusable(*, refused: bool, online_by: str | None) -> EnvironmentError_:
    if refused:
        return EnvironmentError_(
            "wandb refuses WANDB_API_KEY; set a valid key, or unset it to log offline"
        )
    return EnvironmentError_(
        f"wandb cannot be reached within {CONNECT_TIMEOUT_S} s, and {online_by} asks for it; "
        "check the network, or set monitor.wandb=auto and unset WANDB_MODE"
    )


def _known_id(path: Path) -> str | None:
    """Of the run that an earlier start has begun."""
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def last_step_on_disk(folder: Path, *, run_id: str) -> int:
    """The newest step in wandb's offline files; -1 where there is none."""
    from wandb.proto.wandb_internal_pb2 import Record

    last_step = -1
    for path in folder.glob(f"offline-run-*/run-{run_id}.wandb"):
        for data in offline_records(path.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                last_step = max(last_step, record.history.step.num)
    return last_step


def offline_records(data: bytes) -> Iterator[bytes]:
    """The whole records of a .wandb file, which is a LevelDB log behind a 7 byte header: blocks of
    32 KiB, chunks of crc, length, kind and payload; kind 1 is a record, 2 to 4 its first, middle
    and last part (https://github.com/google/leveldb/blob/main/doc/log_format.md)."""
    at, record = 7, b""
    while at + CHUNK_HEADER.size <= len(data):
        left_in_block = BLOCK_BYTES - at % BLOCK_BYTES
        if left_in_block < CHUNK_HEADER.size:
            at += left_in_block
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, at)
        at += CHUNK_HEADER.size + length
        if at > len(data) or kind not in (1, 2, 3, 4):
            return  # cut short by a kill
        record += data[at - length : at]
        if kind in (1, 4):
            yield record
            record = b""
