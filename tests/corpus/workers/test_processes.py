# SPDX-License-Identifier: Apache-2.0
"""Several processes: errors raised here, deaths noticed, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from megacpt.corpus.workers import processes
from megacpt.corpus.workers.processes import num_processes
from megacpt.errors import DataError, EnvironmentError_
from tests.corpus.cases import TINY, make, words, write_jsonl

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("threads", "num_pieces", "num_bytes", "expected"),
    [
        (1, 1000, 1 << 40, 1),
        (4, 1000, 1 << 40, 1),
        (5, 1000, 1 << 40, 2),
        (64, 1000, 1 << 40, 16),
        (64, 6, 1 << 40, 3),
        (64, 1000, 1 << 29, 4),
        (64, 0, 0, 1),
    ],
)
def test_processes_are_as_many_as_they_are_worth(
    threads: int, num_pieces: int, num_bytes: int, expected: int
) -> None:
    assert num_processes(threads, num_pieces=num_pieces, num_bytes=num_bytes) == expected


def helpers(process: psutil.Process) -> list[psutil.Process]:
    """Without the one that multiprocessing starts for itself."""
    found = process.children(recursive=True)
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture
def many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BYTES_MIN", 1)
    monkeypatch.setattr(processes, "THREADS_MAX", 1)


@pytest.mark.usefixtures("many_processes")
def test_an_error_of_another_process_is_raised_here(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(3000, seed=1))
    with source.open("a") as stream:
        stream.write("{\n")
    with pytest.raises(DataError, match=r"a.jsonl:3001: is not JSON"):
        make([source], tmp_path / "out", workers=2, piece_size=1 << 19)
    assert helpers(psutil.Process()) == []


@pytest.mark.usefixtures("many_processes")
def test_a_process_that_dies_is_noticed(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(20_000, seed=1))

    def kill_one() -> None:
        while not (children := helpers(psutil.Process())):
            time.sleep(0.005)
        children[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(EnvironmentError_, match=r"a worker process died; most often memory ran"):
        make([source], tmp_path / "out", workers=2, piece_size=1 << 16)
    killer.join()
    make([source], tmp_path / "out", workers=1, piece_size=1 << 16)


CODE = """
import sys
from pathlib import Path
from megacpt.corpus.workers import processes
from megacpt.shards.tokenize import tokenize
if __name__ == "__main__":
    processes.BYTES_MIN = processes.THREADS_MAX = 1
    source, tokenizer, prefix = map(Path, sys.argv[1:])
    tokenize([source], tokenizer=tokenizer, output_prefix=prefix, workers=3, piece_size=1 << 16)
"""


@pytest.mark.slow
def test_processes_end_when_the_first_is_killed(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(60_000, seed=1))
    script = tmp_path / "run.py"
    script.write_text(CODE)
    command = [sys.executable, script, source, TINY, tmp_path / "out"]
    first = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    process = psutil.Process(first.pid)
    while len(children := helpers(process)) < 2:
        assert first.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_ctrl_c_while_they_start_is_one_interrupt(tmp_path: Path) -> None:
    """A terminal sends it to every process of the foreground, as it does here."""
    source = write_jsonl(tmp_path / "a.jsonl", words(20_000, seed=1))
    script = tmp_path / "run.py"
    script.write_text(CODE)
    first = subprocess.Popen(
        [sys.executable, script, source, TINY, tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    process = psutil.Process(first.pid)
    while len(children := helpers(process)) < 2:
        assert first.poll() is None
    time.sleep(0.2)  # They import.
    os.killpg(first.pid, signal.SIGINT)
    _, error = first.communicate(timeout=30)
    # The end of a traceback, of which one may say that it came while another was handled.
    assert error.splitlines().count("KeyboardInterrupt") == 1, error
    assert error.rstrip().endswith("KeyboardInterrupt")
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not (tmp_path / "out.bin").exists()


THREADS = """
import sys
from pathlib import Path
from megacpt.shards.tokenize import tokenize
tokenize([sys.argv[1]], tokenizer=sys.argv[2], output_prefix=sys.argv[3], workers=2)
print([path.read_text() for path in Path("/proc/self/task").glob("*/comm")])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of threads")
def test_fastokens_starts_no_threads_beside_ours(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", words(100, seed=1))
    command = [sys.executable, "-c", THREADS, str(source), str(TINY), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("FASTOKENS_BPE_THREADS", None)  # which tests before have set
    names = subprocess.check_output(command, env=environment, text=True)
    assert "python" in names
    assert "fastokens" not in names
