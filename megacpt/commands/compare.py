# SPDX-License-Identifier: Apache-2.0
"""The verb that puts runs beside each other: compare."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, say, shown
from megacpt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from megacpt.config.sections import RunConfig
    from megacpt.monitor.comparison import Between
    from megacpt.monitor.summary import Summary

FEWEST_RUNS = 2


def _compare(arguments: argparse.Namespace) -> int:
    from megacpt.config.compose import read_run_yaml
    from megacpt.files import write_text
    from megacpt.monitor.comparison import comparison_html, comparison_text
    from megacpt.monitor.report import read_run
    from megacpt.monitor.summary import summarise

    folders: list[Path] = arguments.run_dirs
    if len({folder.resolve() for folder in folders}) < max(FEWEST_RUNS, len(folders)):
        raise ConfigError(
            f"megacpt compare takes {FEWEST_RUNS} run folders or more, each once; it was given "
            f"{', '.join(shown(folder) for folder in folders)}."
        )
    configs = {
        _name(folder, among=folders): read_run_yaml(folder / "run.yaml") for folder in folders
    }
    runs = [
        summarise(replace(read_run(Path(config.run_dir), config=config), name=name))
        for name, config in configs.items()
    ]
    pairs = _pairs(configs, runs=runs)
    print(comparison_text(runs, between=pairs))
    page = comparison_html(runs, between=pairs)
    write_text(arguments.output, text=page)
    output = shown(arguments.output)
    say(f"Wrote {output}", next_command=f"open {output} in a browser")
    return 0


def _name(folder: Path, *, among: list[Path]) -> str:
    """As many of its last parts as no other has: a column has room for the end of a path."""
    parts = folder.resolve().parts
    others = [other.resolve().parts for other in among if other is not folder]
    lengths = range(1, len(parts) + 1)
    length = next(n for n in lengths if all(other[-n:] != parts[-n:] for other in others))
    return str(Path(*parts[-length:]))


def _pairs(configs: Mapping[str, RunConfig], *, runs: Sequence[Summary]) -> list[Between]:
    """Of the suites that two runs' evaluations have: an older one's scores are of a model that is
    shown nowhere."""
    from megacpt.evaluate.between import between
    from megacpt.monitor.comparison import Between
    from megacpt.monitor.layers import checks_of

    suites = {run["run"]: [check["suite"] for check in checks_of(run["layers"])] for run in runs}
    return [
        Between(first=first, second=second, check=asdict(check))
        for first, second in combinations(configs, 2)
        for check in between(
            configs[first],
            second=configs[second],
            names=[name for name in suites[first] if name in suites[second]],
        )
    ]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_dirs", type=Path, nargs="+", metavar="RUN_DIR", help="folders of two runs or more"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("comparison.html"),
        help="the page to write (default: comparison.html)",
    )


COMPARE = Verb(
    name="compare",
    summary="put runs side by side: perplexities, suites with intervals, gates",
    example="  megacpt compare runs/lora runs/full --output lora-or-full.html",
    add_arguments=_arguments,
    run=_compare,
)
