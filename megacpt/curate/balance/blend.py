# SPDX-License-Identifier: Apache-2.0
"""The plan as a table, and as the blend of a run's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from megacpt.curate.balance.portions import Portion, ratio_of
from megacpt.curate.balance.settings import BalanceConfig
from megacpt.curate.sources import Kind
from megacpt.text import count, text_size

BLEND = "blend.yaml"
SLACK = 1.05
"""On the cap of epochs: tokens and whole batches are known exactly only later."""
HEAD = """\
# The blend that megacpt balance has planned, for megacpt plan --config FILE with the settings of
# the model beside it. Its shards are written, where FOLDER is the one that holds this file, by
"""


def blend_text(portions: Sequence[Portion], *, settings: BalanceConfig) -> str:
    """blend.yaml."""
    commands = (
        f"#   megacpt tokenize {' '.join(f'FOLDER/{name}' for name in names)} "
        f"--tokenizer MODEL --output {_prefix(shard, settings=settings)}\n"
        for shard, names in shards(portions).items()
    )
    tree: str = yaml.safe_dump(blend(portions, settings=settings), sort_keys=False)
    return HEAD + "".join(commands) + tree


def shards(portions: Sequence[Portion]) -> dict[str, list[str]]:
    """Name of each shard, and the sources it is made of: replay is one source of a run."""
    domain = [p.name for p in portions if p.kind is Kind.domain]
    general = [p.name for p in portions if p.kind is Kind.general]
    found = {name: [name] for name in domain}
    if general:
        free = (n for n in ("general", "replay", "general_replay") if n not in domain)
        found[general[0] if len(general) == 1 else next(free)] = general
    return found


def blend(portions: Sequence[Portion], *, settings: BalanceConfig) -> dict[str, Any]:
    """``data`` and ``schedule`` of a run's configuration: as long as the budgets last."""
    domain = [p for p in portions if p.kind is Kind.domain]
    wanted = sum(p.wanted for p in domain)
    cap = {"max_epochs": round(settings.max_epochs * SLACK, 4)}
    sources: dict[str, Any] = {
        p.name: {
            "prefix": _prefix(p.name, settings=settings),
            "weight": _short(p.wanted / wanted),
            **cap,
        }
        for p in domain
    }
    data: dict[str, Any] = {"sources": sources}
    ratio = ratio_of(portions)
    if ratio is not None:
        replay = next(reversed(shards(portions)))
        sources[replay] = {"prefix": _prefix(replay, settings=settings), **cap}
        data["replay"] = {"source": replay, "share": _short(1 / (1 + ratio))}
    epochs = wanted / sum(p.kept for p in domain)
    return {"data": data, "schedule": {"steps": 0, "epochs": _short(epochs)}}


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def _prefix(name: str, *, settings: BalanceConfig) -> str:
    return f"{settings.shards.rstrip('/')}/{name}"


def table(portions: Sequence[Portion], *, in_tokens: bool) -> Iterator[str]:
    """At most 80 columns; amounts are of the whole run."""
    unit = " tokens in all, estimated" if in_tokens else " of text in all"
    whole = sum(p.wanted for p in portions)
    head = f"  {'source':<20}{'kind':<8}{'available':>11}{'kept':>11}{'in a run':>11}"
    yield f"{head}{'share':>8}{'epochs':>8}"
    for p in portions:
        amounts = (_shown(n, in_tokens=in_tokens) for n in (p.available, p.kept, p.wanted))
        cells = "".join(f"{amount:>11}" for amount in amounts)
        name = p.name if len(p.name) < 20 else f"{p.name[:17]}.."
        yield f"  {name:<20}{p.kind.value:<8}{cells}{p.wanted / whole:>8.1%}{p.epochs:>8.2f}"
    ratio = ratio_of(portions)
    said = "no general text" if ratio is None else f"domain to general {ratio:.3g}:1"
    yield f"  {said}, {_shown(whole, in_tokens=in_tokens)}{unit}; see {BLEND}"


def _shown(amount: float, *, in_tokens: bool) -> str:
    return count(amount) if in_tokens else text_size(amount)
