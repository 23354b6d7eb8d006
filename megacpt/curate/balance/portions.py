# SPDX-License-Identifier: Apache-2.0
"""What a run takes of each source: budgets, the ratio of domain to general, the cap of epochs.

Domain sources take their budgets; the general ones together take what the ratio leaves, each in
proportion to what it may give. What is not needed is sampled down; what is needed more than once
becomes epochs of the blend, not copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from megacpt.curate.balance.measure import EDGES, PLACES, SourceSize
from megacpt.curate.balance.settings import BalanceConfig, BudgetConfig
from megacpt.curate.sources import Kind
from megacpt.errors import ConfigError, Violation
from megacpt.text import listed

USUAL = (4.0, 20.0)
"""Domain to general."""
TOLERANCE = 0.01
"""Text over what is needed that is not worth sampling down: what is balanced stays so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A source in a run; amounts are tokens, or bytes."""

    name: str
    kind: Kind
    documents: int
    available: int
    wanted: float
    """Over the whole run."""
    below: int = PLACES
    """Documents whose places are below it are kept."""
    kept: float = 0.0
    """What is there after sampling down."""
    note: str = ""
    """What was not as asked."""

    @property
    def epochs(self) -> float:
        return self.wanted / (self.kept or self.available)


def portions(measured: Sequence[SourceSize], *, settings: BalanceConfig) -> list[Portion]:
    """ConfigError: a budget names no source, or cannot be meant."""
    if broken := list(_broken(measured, settings=settings)):
        raise ConfigError(broken)
    in_tokens = settings.tokenizer is not None
    found = [
        Portion(
            name=m.name,
            kind=m.kind,
            documents=m.counts.documents,
            available=m.amount(in_tokens=in_tokens),
            wanted=0.0,
        )
        for m in measured
    ]
    domain = [_capped(p, settings=settings) for p in found if p.kind is Kind.domain]
    wanted = sum(p.wanted for p in domain) / settings.ratio
    general = _general(
        [p for p in found if p.kind is Kind.general], wanted=wanted, settings=settings
    )
    by_name = {m.name: m for m in measured}
    return [replace(p, below=below(p, bins=by_name[p.name].counts.bins)) for p in domain + general]


def _broken(measured: Sequence[SourceSize], *, settings: BalanceConfig) -> Iterator[Violation]:
    kinds = {m.name: m.kind for m in measured}
    if Kind.domain not in kinds.values():
        yield Violation(
            path="sources",
            value=listed(kinds) if kinds else "{}",
            rule="has no source of kind domain, and the balance begins with what it holds",
            remedy="set sources.NAME.kind=domain",
        )
    for name, budget in settings.sources.items():
        path = f"balance.sources.{name}"
        if name not in kinds:
            yield Violation(
                path=path,
                value="{...}",
                rule=f"is not among the sources that are trained on ({', '.join(kinds)})",
                remedy="name one of them, or leave it out",
            )
        elif budget.epochs is not None and (
            budget.amount is not None or kinds[name] is Kind.general
        ):
            rule = "is set beside amount" if budget.amount is not None else "is of a general source"
            yield Violation(
                path=f"{path}.epochs",
                value=f"{budget.epochs:g}",
                rule=rule,
                remedy=f"set {path}.amount alone"
                + ", and balance.ratio for all general ones" * (kinds[name] is Kind.general),
            )


def _capped(portion: Portion, *, settings: BalanceConfig) -> Portion:
    """A domain source with its budget."""
    budget = settings.sources.get(portion.name, BudgetConfig())
    asked = float(budget.amount or (budget.epochs or 1.0) * portion.available)
    most = settings.max_epochs * portion.available
    if asked <= most:
        return replace(portion, wanted=asked)
    note = f"its budget is {asked / portion.available:.2f} epochs, cut to {settings.max_epochs:g}"
    return replace(portion, wanted=most, note=note)


def _general(
    sources: Sequence[Portion], *, wanted: float, settings: BalanceConfig
) -> list[Portion]:
    """All go through the same number of epochs: they become one shard."""
    usable = {p.name: _usable(p, budgets=settings.sources) for p in sources}
    whole = sum(usable.values())
    given = min(wanted, settings.max_epochs * whole)
    note = ""
    if sources and given < wanted:
        note = f"{wanted / whole:.2f} epochs are asked by the ratio, cut to {settings.max_epochs:g}"
    return [replace(p, wanted=given * usable[p.name] / whole, note=note) for p in sources]


def _usable(portion: Portion, *, budgets: Mapping[str, BudgetConfig]) -> int:
    budget = budgets.get(portion.name, BudgetConfig())
    return min(portion.available, budget.amount or portion.available)


def below(portion: Portion, *, bins: Sequence[int]) -> int:
    """The place from which on documents are left out, so that no more is kept than is wanted."""
    share = portion.wanted / portion.available
    if share > 1 - TOLERANCE:
        return PLACES
    left, last = share * sum(bins), 0
    for edge, size in zip(EDGES, bins, strict=True):
        # Of a source that is there at all something stays.
        if size > left and last:
            break
        left, last = left - size, edge if size else last
    return last


def remarks(found: Sequence[Portion], *, settings: BalanceConfig) -> Iterator[str]:
    """What is not as asked, or not as usual."""
    yield from (f"{p.name}: {p.note}." for p in found if p.note)
    ratio = ratio_of(found)
    if ratio is None:
        yield (
            "no source is of kind general: nothing is replayed, and a model forgets what it is "
            "not shown. Add one with sources.NAME.kind=general."
        )
    elif not USUAL[0] <= round(ratio, 2) <= USUAL[1]:
        least, most = USUAL
        yield (
            f"domain to general is {ratio:.3g}:1; {least:g}:1 to {most:g}:1 is usual. Set "
            "balance.ratio, or give more general text."
        )
    elif ratio > settings.ratio * (1 + TOLERANCE):
        yield f"domain to general is {ratio:.3g}:1, not {settings.ratio:g}:1 as asked."


def ratio_of(found: Sequence[Portion]) -> float | None:
    """Of domain to general; None where nothing is general."""
    sums = {kind: sum(p.wanted for p in found if p.kind is kind) for kind in Kind}
    return sums[Kind.domain] / sums[Kind.general] if sums[Kind.general] else None
