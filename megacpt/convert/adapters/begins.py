# SPDX-License-Identifier: Apache-2.0
"""What a run's adapter begins with: PEFT's folder of the same adapter. No model is built."""

from __future__ import annotations

from pathlib import Path

from megacpt.config.schema import spelled
from megacpt.convert.adapters.read import peft_folder
from megacpt.convert.sources import SourceModel
from megacpt.errors import ConfigError, Violation
from megacpt.families.adapter import A, factor_name, updated
from megacpt.families.architecture import Adapter, Architecture


def first_values(folder: Path, *, base: Path, architecture: Architecture) -> SourceModel:
    """Of the adapter of ``architecture``; ``ConfigError`` where the folder's is another one."""
    source = peft_folder(folder, base=base)
    _require_same(source, architecture=architecture)
    return source


def _require_same(source: SourceModel, *, architecture: Architecture) -> None:
    theirs, ours = source.architecture.adapter, architecture.adapter
    assert theirs is not None
    assert ours is not None
    for setting in ("method", "rank", "alpha", "rank_stabilised"):
        stated = spelled(getattr(theirs, setting))
        if stated != spelled(getattr(ours, setting)):
            remedy = f"use adapter.{setting}={stated}"
            raise _refusal(source, rule=f"has {setting}={stated}", remedy=remedy)
    held, wanted = (
        {each.weight: each for each in updated(a)} for a in (source.architecture, architecture)
    )
    for name in sorted(held.keys() ^ wanted.keys()):
        what = "adapts" if name in held else "does not adapt"
        remedy = f"use {_places(theirs, num_layers=architecture.num_layers)}"
        raise _refusal(source, rule=f"{what} {name}", remedy=remedy)
    for each in held.values():
        rank = source.tensors[factor_name(each.module, factor=A)].shape[0]
        if rank != ours.rank:
            rule = f"has rank {rank} for {each.module} (rank_pattern), and here all have one"
            remedy = "go on from the model that megacpt merge --adapter makes of it"
            raise _refusal(source, rule=rule, remedy=remedy)
    for table in ("embedding", "head"):
        if getattr(theirs, table) and not getattr(ours, table):
            rule = f"holds the whole {table} as it was trained"
            raise _refusal(source, rule=rule, remedy=f"use adapter.train_{table}=true")


def _places(adapter: Adapter, *, num_layers: int) -> str:
    """As the run's settings name the modules and layers of an adapter."""
    names = dict.fromkeys(module.rpartition(".")[2] for module in adapter.modules)
    layers = ",".join(map(str, adapter.layers)) if len(adapter.layers) < num_layers else "null"
    return f"adapter.targets={','.join(names)} adapter.layers={layers}"


def _refusal(source: SourceModel, *, rule: str, remedy: str) -> ConfigError:
    return ConfigError(
        [Violation(path="adapter.load_from", value=str(source.folder), rule=rule, remedy=remedy)]
    )
