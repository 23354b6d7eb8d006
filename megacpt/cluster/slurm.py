# SPDX-License-Identifier: Apache-2.0
"""RUN_DIR/train.sbatch: launch/train.sbatch with the lines of one run above its body.

What is written can be read, edited and given to sbatch by hand.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from megacpt.config.paths import RunFolder, launch_root
from megacpt.config.sections import ContainerRuntime, DeviceKind, RunConfig, SlurmConfig
from megacpt.errors import ConfigError
from megacpt.plan.rules.cluster import tasks_per_node

BODY = "\n# ---- the body, the same for every run ----\n"
COMMENT_AT = 46
_UNSAFE_PATH = re.compile(r"[\s'\"\\$`;%#&]")


def render(config: RunConfig, *, python: str) -> str:
    """``python``: the interpreter of ``megacpt launch``, which the first node can start, too."""
    _require_plain(config.run_dir)
    template = (launch_root() / "train.sbatch").read_text(encoding="utf-8")
    body = template.partition(BODY)[2]
    head = [*_about(config), "", *_options(config), "", *_settings(config, python=python)]
    return "\n".join(head) + f"\n{BODY}" + body


def job_name(run_dir: str) -> str:
    """The name of all jobs of a run and of no other: by it a job waits for the one before."""
    name = re.sub(r"[^\w.-]", "_", Path(run_dir).name)
    return f"{name}-{hashlib.sha256(run_dir.encode()).hexdigest()[:6]}"


def _require_plain(run_dir: str) -> None:
    found = _UNSAFE_PATH.search(run_dir)
    if found:
        raise ConfigError(
            f"run_dir={run_dir} has {found.group()!r} in it, which sbatch or the shell reads as "
            "something else; use letters, digits, / . _ and -."
        )


def _about(config: RunConfig) -> list[str]:
    p, folder = config.parallel, RunFolder(Path(config.run_dir))
    experts = f" ep={p.ep}" if p.ep > 1 else ""
    commands = {
        f"sbatch {folder.train_sbatch}": "start, or go on from the newest checkpoint",
        f"tail -F {folder.train_log}": "watch",
        f"megacpt logs {config.run_dir}": "every start, and the first error of the last",
        f"echo save_and_exit > {config.run_dir}/request": "save, stop and stay stopped",
        f"scancel --name={job_name(config.run_dir)}": "end it, and what is queued of it",
    }
    width = max(map(len, commands))
    return [
        "#!/bin/bash",
        "# SPDX-License-Identifier: Apache-2.0",
        f"# The run {config.run_dir}: {p.num_ranks} ranks on {config.cluster.nodes} nodes, "
        f"tp={p.tp} cp={p.cp} pp={p.pp} dp={p.dp}{experts}.",
        "# Written by `megacpt launch`, again each time; edit it and submit it as you like.",
        "#",
        *(f"#   {command:<{width}}  {words}" for command, words in commands.items()),
    ]


def _options(config: RunConfig) -> Iterator[str]:
    slurm, cluster = config.cluster.slurm, config.cluster
    tasks = tasks_per_node(config)
    yield from _lines(
        ("job-name", job_name(config.run_dir)),
        ("dependency", _dependency(slurm)),
        ("array", slurm.array),
        ("nodes", cluster.nodes + slurm.spare_nodes),
        ("ntasks-per-node", tasks),
        ("gpus-per-node", tasks if cluster.device is not DeviceKind.cpu else None),
        ("cpus-per-task", slurm.cpus_per_task),
        ("mem", slurm.mem),
    )
    if slurm.exclusive:
        yield "#SBATCH --exclusive"
    yield from _lines(
        *((n, getattr(slurm, n)) for n in ("partition", "account", "qos", "reservation")),
        ("constraint", slurm.constraint),
        ("time", slurm.time),
        ("signal", f"B:USR1@{slurm.signal_seconds}"),
    )
    yield "#SBATCH --requeue" if slurm.requeue else "#SBATCH --no-requeue"
    yield f"#SBATCH --output={RunFolder(Path(config.run_dir)).train_log}"
    yield "#SBATCH --open-mode=append"
    yield from (f"#SBATCH {option}" for option in extra_options(slurm))


def _lines(*options: tuple[str, object]) -> Iterator[str]:
    yield from (f"#SBATCH --{name}={value}" for name, value in options if value is not None)


def _dependency(slurm: SlurmConfig) -> str | None:
    """What the user names, and every earlier job of the same run."""
    alone = [] if slurm.array is not None else ["singleton"]
    return ",".join([*([slurm.dependency] if slurm.dependency else []), *alone]) or None


def extra_options(slurm: SlurmConfig) -> list[str]:
    """One for each ``#SBATCH`` line."""
    try:
        words = shlex.split(slurm.extra or "")
    except ValueError as error:
        words = [str(error)]
    wrong = [word for word in words if not re.match(r"--?[A-Za-z]", word) or "\n" in word]
    if wrong:
        raise ConfigError(
            f"cluster.slurm.extra={slurm.extra} has {wrong[0]!r}, which is no option; write each "
            "as one word, as --mail-type=END."
        )
    return words


def _settings(config: RunConfig, *, python: str) -> Iterator[str]:
    slurm = config.cluster.slurm
    if slurm.modules:
        yield f"module load {shlex.join(slurm.modules.split())}"
    if slurm.setup:
        yield from slurm.setup.rstrip().splitlines()
    yield _note(f"python={shlex.quote(python)}", note="asks and decides on the first node")
    rank, in_srun = _rank(slurm, python=python)
    yield _note(f"rank=({shlex.join(rank)})", note="runs each rank")
    yield f"in_srun=({shlex.join(in_srun)})"
    yield f"nodes={config.cluster.nodes}"
    yield _note(f"spares={slurm.spare_nodes}", note="nodes beyond these, for bad ones")
    yield _note(f"requeue={_yes(slurm.requeue)}", note="after a saved stop, a hang or a lost rank")
    yield _note(f"chain={_yes(slurm.chain)}", note="each job queues the next")
    yield f"run_dir={shlex.quote(config.run_dir)}"


def _rank(slurm: SlurmConfig, *, python: str) -> tuple[list[str], list[str]]:
    """The command of a rank without its arguments, and srun's options for it."""
    image, mounts = slurm.container_image, slurm.container_mounts
    if image is None:
        return [slurm.python or python], []
    inside = [slurm.python or "python3"]
    if slurm.container_runtime is ContainerRuntime.apptainer:
        binds = [f"--bind={mounts}"] if mounts else []
        return ["apptainer", "exec", "--nv", *binds, image, *inside], []
    options = [f"--container-image={image}"]
    return inside, options + ([f"--container-mounts={mounts}"] if mounts else [])


def _note(line: str, *, note: str) -> str:
    return f"{line:<{COMMENT_AT}} # {note}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
