# SPDX-License-Identifier: Apache-2.0
"""Real wandb, offline: what it keeps on disk is read back and compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from megacpt.config.sections import MonitorConfig, WandbMode
from megacpt.device.environment import beginning_with
from megacpt.errors import EnvironmentError_
from megacpt.monitor.metrics import StepRecord
from megacpt.monitor.wandb import CONNECT_TIMEOUT_S, WandbRun, flat, offline_records
from tests.monitor.sample_run import STEPS, records_with_faults, write_evaluation, write_run
from tests.monitor.sample_run import records as sample_records

SECRET = "d41d8cd98f00b204e9800998ecf8427ed41d8cd9"


@pytest.fixture(autouse=True)
def _key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


def record(step: int) -> StepRecord:
    return {"step": step, "loss": 3.0 - step / 100, "loss_per_source": {"plant": 2.5}, "lr": 1e-5}


def start(run_dir: Path, *, records: Sequence[StepRecord] = ()) -> WandbRun:
    return WandbRun.start(
        run_dir,
        config={"optim": {"lr_peak": 2e-5}},
        monitor=MonitorConfig(wandb=WandbMode.offline),
        has_api_key=False,
        records=records,
    )


def stored(run_dir: Path, *, kind: str) -> Iterator[Any]:
    """Records of one kind in all of wandb's own files below the run folder, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        for data in offline_records(path.read_bytes()):
            entry = Record.FromString(data)
            if entry.WhichOneof("record_type") == kind:
                yield getattr(entry, kind)


def history(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in entry.item}
        for entry in stored(run_dir, kind="history")
    ]


def test_the_history_on_disk_is_what_was_logged(tmp_path: Path) -> None:
    run = start(tmp_path)
    for step in range(1, 4):
        run.log(record(step))
    run.finish()
    rows = history(tmp_path)
    assert [row["_step"] for row in rows] == [1, 2, 3]
    assert [row["train/loss"] for row in rows] == [2.99, 2.98, 2.97]
    assert rows[0]["train/loss_plant"] == 2.5
    (stored_run,) = stored(tmp_path, kind="run")
    config = {item.key: json.loads(item.value_json) for item in stored_run.config.update}
    assert config["optim"] == {"lr_peak": 2e-5}
    assert stored_run.display_name == tmp_path.name


def test_a_restart_goes_on_in_the_same_run_and_logs_no_step_twice(tmp_path: Path) -> None:
    first = start(tmp_path)
    for step in range(1, 8):
        first.log(record(step))
    first.finish()
    second = start(tmp_path, records=[record(step) for step in range(1, 5)])
    for step in range(5, 11):
        second.log(record(step))
    second.finish()
    assert [row["_step"] for row in history(tmp_path)] == list(range(1, 11))
    assert len({r.run_id for r in stored(tmp_path, kind="run")}) == 1


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.monitor.test_wandb import record, start
run = start(Path({run_dir!r}))
for step in range(1, 8):
    run.log(record(step))
os.kill(os.getpid(), signal.SIGKILL)
"""


def in_own_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """wandb reads its environment once, and children would share their parent's service."""
    inherited = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_kill_9_neither_loses_a_step_nor_logs_one_twice(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), run_dir=str(tmp_path))
    assert in_own_process(code).returncode == -signal.SIGKILL
    run = start(tmp_path, records=[record(step) for step in range(1, 5)])
    for step in range(5, 11):
        run.log(record(step))
    run.finish()
    assert [row["_step"] for row in history(tmp_path)] == list(range(1, 11))


def test_a_wandb_file_cut_anywhere_gives_its_whole_records(tmp_path: Path) -> None:
    run = start(tmp_path)
    for step in range(1, 200):  # more than one block of 32 KiB
        run.log(record(step))
    run.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = path.read_bytes()
    whole = list(offline_records(data))
    assert len(data) > 2 * 32768
    for size in range(0, len(data), 997):
        part = list(offline_records(data[:size]))
        assert part == whole[: len(part)]


def test_generations_stand_beside_those_of_the_base_model(tmp_path: Path) -> None:
    base: StepRecord = {"step": 0, "generations": [{"prompt": "In the", "text": "old times"}]}
    start(tmp_path, records=[base]).finish()
    for table in tmp_path.glob("wandb/offline-run-*/files/media/table/*.json"):
        table.unlink()
    run = start(tmp_path, records=[base])
    run.log({"step": 9, "generations": [{"prompt": "In the", "text": "beginning"}]})
    run.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["step", "prompt", "base", "now"]
    assert table["data"] == [[9, "In the", "old times", "beginning"]]


def test_nothing_reaches_the_terminal_and_no_secret_the_disk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path)
    run.log(record(1))
    run.finish()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert {path.relative_to(tmp_path).parts[0] for path in files} == {"wandb", "wandb_id"}


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    monitor = MonitorConfig(wandb=WandbMode.disabled)
    run = WandbRun.start(tmp_path, config={}, monitor=monitor, has_api_key=True, records=[])
    run.log(record(1))
    run.finish()
    assert list(tmp_path.iterdir()) == []


def told_by_variables(
    run_dir: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    monitor: MonitorConfig | None = None,
    **variables: str,
) -> WandbRun:
    """A run of the user's variables, which wandb reads itself as it starts again."""
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = WandbRun.start(
        run_dir,
        config={},
        monitor=monitor or MonitorConfig(),
        has_api_key=True,
        records=[],
        variables=beginning_with("WANDB_"),
    )
    run.log(record(1))
    run.finish()
    return run


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ours; wandb has a log of its own."""
    ours = [r for r in caplog.records if r.name == "megacpt.monitor.wandb"]
    return [record.getMessage() for record in ours]


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_offline_by_variable_tries_no_server_though_there_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    began_at = time.monotonic()
    told_by_variables(tmp_path, monkeypatch=monkeypatch, MODE=mode, BASE_URL="http://127.0.0.1:9")
    assert time.monotonic() - began_at < CONNECT_TIMEOUT_S
    assert [row["_step"] for row in history(tmp_path)] == [1]


@pytest.mark.parametrize(
    "variables", [{"MODE": "disabled"}, {"DISABLED": "true"}, {"DISABLED": "1", "MODE": "online"}]
)
def test_disabled_by_variable_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    told_by_variables(tmp_path, monkeypatch=monkeypatch, **variables)
    assert list(tmp_path.iterdir()) == []


def test_wandbs_own_variables_count_where_no_setting_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run_dir.mkdir()
    told = {"MODE": "offline", "DIR": str(elsewhere), "PROJECT": "p", "ENTITY": "e", "NAME": "n"}
    own = {"RUN_ID": "sweep7", "TAGS": "a,b", "NOTES": "hello"}
    for _ in range(2):  # a restart goes on with the same run, there
        told_by_variables(run_dir, monkeypatch=monkeypatch, **told, **own)
    runs = list(stored(elsewhere, kind="run"))
    assert len(runs) == 2
    for run in runs:
        assert (run.project, run.entity, run.display_name) == ("p", "e", "n")
        assert (run.run_id, list(run.tags), run.notes) == ("sweep7", ["a", "b"], "hello")
    assert [row["_step"] for row in history(elsewhere)] == [1]
    assert [path.name for path in run_dir.iterdir()] == ["wandb_id"]
    assert warnings(caplog) == []


def test_a_setting_goes_over_the_variable_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "wandb_id").write_text("ours\n")
    monitor = MonitorConfig(wandb=WandbMode.offline, wandb_project="p", wandb_name="n")
    told = {"MODE": "online", "PROJECT": "other", "NAME": "n", "RUN_ID": "x", "RESUME": "never"}
    told_by_variables(tmp_path, monkeypatch=monkeypatch, monitor=monitor, **told)
    (run,) = stored(tmp_path, kind="run")
    assert (run.project, run.display_name, run.run_id) == ("p", "n", "ours")
    assert warnings(caplog) == [
        "WANDB_MODE=online is not followed: monitor.wandb=offline",
        "WANDB_PROJECT=other is not followed: monitor.wandb_project=p",
        f"WANDB_RUN_ID=x is not followed: this run goes on with ours ({tmp_path / 'wandb_id'})",
        "WANDB_RESUME=never is not followed: each start goes on with the wandb run of the one "
        "before",
    ]


def test_an_id_that_wandb_refuses_is_one_error_and_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvironmentError_, match=r"wandb refuses .*Run ID cannot contain"):
        told_by_variables(tmp_path, monkeypatch=monkeypatch, MODE="offline", RUN_ID="a/b")
    assert not (tmp_path / "wandb_id").exists()


UNREACHABLE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from megacpt.config.sections import MonitorConfig, WandbMode
from megacpt.monitor import wandb
from tests.monitor.test_wandb import record
wandb.CONNECT_TIMEOUT_S = 3
monitor = MonitorConfig(wandb=WandbMode[{mode!r}])
run = wandb.WandbRun.start(
    Path({run_dir!r}), config={{}}, monitor=monitor, has_api_key=True, records=[]
)
run.log(record(1))
run.finish()
"""


def start_without_server(run_dir: Path, *, mode: str) -> subprocess.CompletedProcess[str]:
    tests = str(Path(__file__).parents[2])
    code = UNREACHABLE.format(tests=tests, run_dir=str(run_dir), mode=mode)
    return in_own_process(code, WANDB_BASE_URL="http://127.0.0.1:9")


def test_auto_goes_offline_where_the_server_cannot_be_reached(tmp_path: Path) -> None:
    done = start_without_server(tmp_path, mode="auto")
    assert done.stderr.strip() == "wandb cannot be reached; this run is logged offline"
    assert (done.returncode, done.stdout) == (0, "")
    assert [row["_step"] for row in history(tmp_path)] == [1]


def test_online_ends_where_the_server_cannot_be_reached(tmp_path: Path) -> None:
    done = start_without_server(tmp_path, mode="online")
    assert done.returncode == 1
    assert "EnvironmentError_: wandb cannot be reached within 3 s" in done.stderr


def test_numbers_that_were_not_measured_are_left_out() -> None:
    assert flat({"step": 0, "heldout": {"a": {"loss": 3.0, "perplexity": 20.1, "tokens": 9}}}) == {
        "heldout/a_loss": 3.0,
        "heldout/a_perplexity": 20.1,
    }


def test_faults_stand_in_a_table_and_as_numbers(tmp_path: Path) -> None:
    run = start(tmp_path)
    for item in records_with_faults()[29:60]:
        run.log(item)
    run.finish()
    by_step = {entry["_step"]: entry for entry in history(tmp_path)}
    assert by_step[30]["faults/event"] == by_step[58]["faults/event"] == 1
    assert by_step[30]["faults/threshold"] == 4.2
    assert by_step[58]["faults/skipped_samples_psalms"] == 6
    assert by_step[58]["speed/slowest_rank"] == 13
    assert "train/loss" not in by_step[57]
    (tables,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/faults")
    newest = max(tables.glob("*.json"), key=lambda path: path.stat().st_size)
    rows = json.loads(newest.read_text())["data"]
    assert [row[0] for row in rows] == [30, 30, 58, 58]
    assert rows[2][3] == "sample 5, of psalms, document 812 from token 40 on"


def test_suites_are_a_table_that_belongs_to_no_step(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    config = write_run(folder, run=sample_records())
    write_evaluation(folder, config=config, step=STEPS, suites=True)
    checks = json.loads((folder / "evaluation.json").read_text())["suites"]
    run = start(tmp_path)
    run.log(record(1))
    run.log_suites(checks, step=1)
    run.finish()
    again = start(tmp_path, records=[record(1)])
    again.log(record(2))
    again.finish()
    (artifact,) = [a for a in stored(tmp_path, kind="artifact") if a.type == "evaluation"]
    assert [entry.path for entry in artifact.manifest.contents] == ["suites.table.json"]
    assert [row["_step"] for row in history(tmp_path)] == [1, 2]
