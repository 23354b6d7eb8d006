# SPDX-License-Identifier: Apache-2.0
"""Places of files: the packaged configs, files named ``builtin:``, parts of a run folder."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import megacpt
from megacpt.config.hub_model import HubModel
from megacpt.errors import ConfigError

if TYPE_CHECKING:
    from megacpt.config.sections import RunConfig

BUILTIN = "builtin:"


def configs_root() -> Path:
    """``megacpt/configs`` of an installed wheel, ``configs`` of a checkout."""
    return _packaged("configs", holds="config.yaml")


def launch_root() -> Path:
    """The batch scripts: ``megacpt/launch`` of an installed wheel, ``launch`` of a checkout."""
    return _packaged("launch", holds="train.sbatch")


def _packaged(name: str, *, holds: str) -> Path:
    packaged = Path(str(importlib.resources.files(megacpt))) / name
    checkout = Path(megacpt.__file__).parents[1] / name
    for folder in (packaged, checkout):
        if (folder / holds).is_file():
            return folder
    raise ConfigError(
        f"{name}/{holds} is neither in {packaged.parent} nor in {checkout.parent}; "
        "install megacpt again."
    )


def expand(path: str | None) -> str | None:
    """The place of ``builtin:NAME`` below the packaged configs; other paths made absolute."""
    if not path:
        return path
    if path.startswith(BUILTIN):
        return str(configs_root() / path.removeprefix(BUILTIN))
    return str(Path(path).expanduser().absolute())


def expand_model(path: str | None) -> str | None:
    """As ``expand``; the id of a model on the hub stays as it is, where no folder has its name."""
    asked = HubModel.asked(path or "")
    if asked is None or (not asked.explicit and Path(str(path)).exists()):
        return expand(path)
    return path


def contract(path: str | None) -> str | None:
    """Inverse of ``expand`` for packaged files: run.yaml must not depend on the install place."""
    root = f"{configs_root()}/"
    return BUILTIN + path.removeprefix(root) if path and path.startswith(root) else path


def with_expanded_paths(config: RunConfig) -> RunConfig:
    """A copy in which every path is absolute, so that any process in any folder can use it."""
    return replace(
        config,
        run_dir=str(expand(config.run_dir)),
        model=replace(config.model, path=expand_model(config.model.path)),
        data=replace(
            config.data,
            sources={
                n: replace(s, prefix=expand(s.prefix)) for n, s in config.data.sources.items()
            },
        ),
        adapter=config.adapter
        and replace(config.adapter, load_from=expand(config.adapter.load_from)),
        checkpoint=replace(config.checkpoint, load_from=expand(config.checkpoint.load_from)),
        evaluate=replace(
            config.evaluate,
            prompts=expand(config.evaluate.prompts),
            heldout={
                n: replace(h, prefix=expand(h.prefix)) for n, h in config.evaluate.heldout.items()
            },
            benchmarks={
                n: replace(
                    b,
                    task=str(expand(b.task)) if b.names_file else b.task,
                    include_path=expand(b.include_path),
                )
                for n, b in config.evaluate.benchmarks.items()
            },
            usefulness={
                n: replace(u, questions=str(expand(u.questions)))
                for n, u in config.evaluate.usefulness.items()
            },
        ),
    )


def with_contracted_paths(config: RunConfig) -> RunConfig:
    """A copy in which packaged files are named ``builtin:`` again."""
    return replace(
        config,
        model=replace(config.model, path=contract(config.model.path)),
        evaluate=replace(config.evaluate, prompts=contract(config.evaluate.prompts)),
    )


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names inside RUN_DIR."""

    root: Path

    @property
    def run_yaml(self) -> Path:
        return self.root / "run.yaml"

    @property
    def plan_json(self) -> Path:
        return self.root / "plan.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log_of(self, rank: int) -> Path:
        return self.logs / f"rank_{rank}.log"

    @property
    def train_log(self) -> Path:
        """What all Slurm jobs of the run and their rank 0 have said, one after the other."""
        return self.logs / "train.log"

    @property
    def jobs(self) -> Path:
        """Starts and ends of the run's Slurm jobs (megacpt.cluster.restarts)."""
        return self.logs / "jobs.jsonl"

    @property
    def train_sbatch(self) -> Path:
        return self.root / "train.sbatch"

    def error_of(self, rank: int) -> Path:
        return self.logs / f"rank_{rank}.error.json"

    def stacks_of(self, rank: int) -> Path:
        return self.logs / f"rank_{rank}.stacks.txt"

    def export_of(self, *, adapter: bool) -> Path:
        """Where ``megacpt export`` writes by itself."""
        return self.root / ("adapter" if adapter else "hf")

    @property
    def benchmarks(self) -> Path:
        """Answers and scores of evaluate.benchmarks."""
        return self.root / "benchmarks"

    @property
    def usefulness(self) -> Path:
        """Answers and scores of evaluate.usefulness."""
        return self.root / "usefulness"

    @property
    def request(self) -> Path:
        """What a person asks of a running run, in one word (megacpt.train.requests)."""
        return self.root / "request"

    @property
    def warm_start(self) -> Path:
        """Which checkpoint of another run this one begins with."""
        return self.root / "warm_start.json"

    @property
    def chat_template(self) -> Path:
        """What conversations were written with, of a run that learns replies."""
        return self.root / "chat_template.jinja"

    @property
    def faults(self) -> Path:
        return self.root / "faults.jsonl"


def source_shards(config: RunConfig) -> dict[str, str]:
    """Token-shard prefix of each source; generated text lies in the run folder."""
    return {
        name: source.prefix or str(Path(config.run_dir) / "data" / f"source-{name}")
        for name, source in config.data.sources.items()
    }


def heldout_shards(config: RunConfig) -> dict[str, str]:
    """Token-shard prefix of each held-out set."""
    return {
        name: heldout.prefix or str(Path(config.run_dir) / "data" / f"heldout-{name}")
        for name, heldout in config.evaluate.heldout.items()
    }
