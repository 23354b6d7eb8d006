# SPDX-License-Identifier: Apache-2.0
"""Processes that begin where the imports end: forks of one that has imported what ranks need.

    subprocess.run([PYTHON, "-m", "megacpt", ...])

``PYTHON`` stands for a new interpreter, as ``sys.executable`` does, and the process is as real: a
child of whoever started it, with a number, environment, files and signals of its own, and so are
the ranks that it starts. They are spared the seconds of CPU in which torch, megatron-core and
transformers are imported. A test that is about imports, or looks for a command line in /proc, takes
``sys.executable``.

Safely forked is only what has no threads, so a process without any, the nursery, does it: it forks
one that forks the one wanted and ends, whose orphan the customer adopts.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import pickle
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from megacpt.device.environment import gpu_files

INTERPRETER, VARIABLES = sys.executable, dict(os.environ)
"""Before any test has changed them."""
PYTHON = "forked python"
if sys.platform != "linux" or gpu_files(Path("/dev")) or find_spec("transformer_engine"):
    # On a GPU, and where one is feigned, ranks import another megatron-core than on a CPU.
    PYTHON = INTERPRETER
RANK = "megacpt.train.rank"
IMPORTED = (
    "megacpt.commands.model",
    "megacpt.convert.export",
    "megacpt.train.assembly",
    "transformers.generation.utils",
    "transformers.models.llama.modeling_llama",
)
READ_BY_IMPORTS = ("HF_", "HOME", "TRANSFORMERS_", "XDG_")
"""How variables begin of which a fork keeps what the nursery was given."""
OF_DOWNLOADS = "HF_XET_"
"""How those of them begin that matter to no rank; importing lm-eval sets one."""
START = "import sys; from tests.forked import main; main(int(sys.argv[1]))"
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A process to be. Its three standard files come beside it."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    customer: int
    new_session: bool
    process_group: int
    prepare: Callable[[], object] | None


class Nursery:
    """A customer's connection to it."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders, self._lock = orders, threading.Lock()
        self._known = _read_by_imports(VARIABLES)

    def order(self, wanted: Order, *, files: Sequence[int]) -> int:
        """The number of the process, now a child of this one."""
        differs = _read_by_imports(wanted.environment).items() ^ self._known.items()
        assert not differs, f"a fork cannot be given {dict(differs)}; use sys.executable"
        with self._lock:
            _adopt_orphans(True)
            try:
                socket.send_fds(self._orders, [pickle.dumps(wanted)], files)
                answer = self._orders.recv(16)
            finally:
                _adopt_orphans(False)
        number = int(answer or 0)
        assert number, "the process could not begin, or the nursery has died; stderr says why"
        return number


def _read_by_imports(environment: Any) -> dict[str, str]:
    return {
        n: value
        for n, value in environment.items()
        if n.startswith(READ_BY_IMPORTS) and not n.startswith(OF_DOWNLOADS)
    }


def _adopt_orphans(wanted: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


_STARTING = threading.Lock()


def _nursery() -> Nursery:
    """This process's own, which ends when this one does; threads that ask at once have one."""
    with _STARTING:
        return _started()


@cache
def _started() -> Nursery:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Else libraries would begin threads for the other cores.
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with theirs:
        subprocess.Popen(
            [INTERPRETER, "-c", START, str(theirs.fileno())],
            env=VARIABLES | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    return Nursery(ours)


def _take_orders(nursery: Callable[[], Nursery], *, is_wanted: Callable[[list[str]], bool]) -> None:
    """From whatever starts a process in this one through ``subprocess``."""
    otherwise = subprocess._fork_exec  # type: ignore[attr-defined]
    subprocess._fork_exec = partial(  # type: ignore[attr-defined]
        _fork_exec, nursery=nursery, is_wanted=is_wanted, otherwise=otherwise
    )


def _fork_exec(
    *arguments: Any,
    nursery: Callable[[], Nursery],
    is_wanted: Callable[[list[str]], bool],
    otherwise: Callable[..., int],
) -> int:
    """In place of the function of this name by which subprocess makes a process of its options."""
    words = [os.fsdecode(word) for word in arguments[0]]
    variables = arguments[5] or [b"%s=%s" % pair for pair in os.environb.items()]
    environment = dict(os.fsdecode(pair).split("=", 1) for pair in variables)
    words = _after_env(words, environment=environment)
    if not is_wanted(words):
        return otherwise(*arguments)
    wanted = Order(
        words=words,
        environment=environment,
        folder=os.path.abspath(arguments[4] or "."),
        customer=os.getpid(),
        new_session=arguments[15],
        process_group=arguments[16],
        prepare=arguments[21],
    )
    given = (arguments[6], arguments[9], arguments[11])
    return nursery().order(wanted, files=[n if f == -1 else f for n, f in enumerate(given)])


def _after_env(words: list[str], *, environment: dict[str, str]) -> list[str]:
    """What env(1) would run, after it has changed the environment."""
    while words and (words[0] in ("env", "-u") or "=" in words[0]):
        name, _, value = words.pop(0).partition("=")
        if name == "-u":
            environment.pop(words.pop(0), None)
        else:
            environment[name] = value
    return words


def _is_module(words: list[str], *, interpreter: str, module: str | None = None) -> bool:
    return words[:2] == [interpreter, "-m"] and module in (None, words[2])


def main(orders: int) -> None:
    """The nursery, and all that comes out of it."""
    if "MEGACPT_COVERAGE_FOLDER" in os.environ:
        importlib.import_module("tests.branch_coverage")
    importlib.import_module("megacpt.device.quiet").quiet_libraries()
    importlib.import_module("megacpt.device.cpu.import_hook").install()
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # Or the first collection of each fork would copy all of it.
    _serve(socket.socket(fileno=orders))


def _serve(orders: socket.socket) -> NoReturn:
    """Does the work of the process that was ordered, in it, and ends it."""
    while True:
        message, files, *_ = socket.recv_fds(orders, 1 << 20, 3)
        if not message:
            os._exit(0)
        between = os.fork()
        if between == 0:
            between = os.getpid()
            if os.fork():
                os._exit(0)
            _live(pickle.loads(message), files=files, between=between, orders=orders)
        os.waitpid(between, 0)
        for file in files:
            os.close(file)


def _live(order: Order, *, files: Sequence[int], between: int, orders: socket.socket) -> NoReturn:
    while os.getppid() == between:
        time.sleep(0.0002)
    if os.getppid() != order.customer:
        os._exit(1)
    number = 0
    try:
        _take_place(order, files=files)
        number = os.getpid()
    finally:
        # From now on it may be sent signals.
        with orders:
            orders.send(str(number).encode())
    module = order.words[2]
    if module == "megacpt":
        _begin_own_nursery()
    if not hasattr(sys.modules.get(module), "__path__"):
        sys.modules.pop(module, None)
    sys.argv = order.words[2:]
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        traceback.print_exc()
        code = 1
    _end(code)


def _end(code: object) -> NoReturn:
    """As an interpreter does, but for the second in which it takes all modules apart."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _take_place(order: Order, *, files: Sequence[int]) -> None:
    """What an interpreter finds when it begins."""
    if order.new_session:
        os.setsid()
    elif order.process_group >= 0:
        os.setpgid(0, order.process_group)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    for name in ("environment", "variables"):
        vars(sys.modules[f"megacpt.device.{name}"])["AT_START"] = frozenset(os.environ)
    vars(sys.modules["megacpt.device.environment"])["STARTED_AT"] = time.time()
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order.prepare is not None:
        order.prepare()


def _begin_own_nursery() -> None:
    """While this process has no threads yet, for the ranks that it will start."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        _serve(theirs)
    theirs.close()
    own = Nursery(ours)
    _take_orders(
        lambda: own, is_wanted=partial(_is_module, interpreter=sys.executable, module=RANK)
    )


if PYTHON != INTERPRETER:
    _take_orders(_nursery, is_wanted=partial(_is_module, interpreter=PYTHON))
