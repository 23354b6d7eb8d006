# SPDX-License-Identifier: Apache-2.0
"""Budgets, ratio and cap hold for any sources; what sampling down keeps is what is wanted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megacpt.curate.balance.measure import EDGES, PLACES, Counts, SourceSize
from megacpt.curate.balance.portions import Portion, below, portions, ratio_of
from megacpt.curate.balance.settings import BalanceConfig, BudgetConfig
from megacpt.curate.sources import Kind

DOCUMENTS = 2000


def bins_of(places: np.ndarray, *, sizes: np.ndarray) -> list[int]:
    found = np.zeros(len(EDGES), dtype=np.int64)
    np.add.at(found, np.searchsorted(EDGES, places, side="right"), sizes)
    return [int(n) for n in found]


def measured(name: str, *, kind: Kind, seed: int, documents: int = DOCUMENTS) -> SourceSize:
    rng = np.random.default_rng(seed)
    places = rng.integers(PLACES, size=documents)
    sizes = rng.integers(1, 5000, size=documents)
    return SourceSize(
        name=name, kind=kind, counts=Counts(documents=documents, bins=bins_of(places, sizes=sizes))
    )


sizes_of_sources = st.lists(st.integers(1, 3000), min_size=1, max_size=3)


@settings(deadline=None, max_examples=40)
@given(
    domain=sizes_of_sources,
    general=sizes_of_sources,
    ratio=st.floats(0.1, 50),
    cap=st.floats(0.2, 8),
    epochs=st.floats(0.05, 10),
)
def test_ratio_and_cap_hold(
    domain: list[int], general: list[int], ratio: float, cap: float, epochs: float
) -> None:
    sources = [
        measured(f"d{n}", kind=Kind.domain, seed=n, documents=s) for n, s in enumerate(domain)
    ]
    sources += [
        measured(f"g{n}", kind=Kind.general, seed=9 + n, documents=s) for n, s in enumerate(general)
    ]
    config = BalanceConfig(ratio=ratio, max_epochs=cap, sources={"d0": BudgetConfig(epochs=epochs)})
    found = portions(sources, settings=config)
    assert [p.name for p in found] == [source.name for source in sources]
    for p in found:
        assert p.wanted <= cap * p.available * (1 + 1e-9)
        if p.kind is Kind.domain:
            asked = epochs if p.name == "d0" else 1
            assert np.isclose(p.wanted, min(asked, cap) * p.available)
    # All general sources go through the same number of epochs.
    assert len({round(p.wanted / p.available, 6) for p in found if p.kind is Kind.general}) == 1
    got = ratio_of(found)
    assert got is not None
    is_cut = any(p.note for p in found if p.kind is Kind.general)
    assert got > ratio if is_cut else np.isclose(got, ratio)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 99), shares=st.lists(st.floats(0.002, 0.98), min_size=2, max_size=2))
def test_what_is_kept_is_what_is_wanted(seed: int, shares: list[float]) -> None:
    rng = np.random.default_rng(seed)
    places, sizes = rng.integers(PLACES, size=20_000), rng.integers(1, 500, size=20_000)
    bins = bins_of(places, sizes=sizes)
    limits = []
    for share in sorted(shares):
        portion = Portion(
            name="g",
            kind=Kind.general,
            documents=len(sizes),
            available=sum(bins),
            wanted=share * sum(bins),
        )
        limits.append(below(portion, bins=bins))
        kept = sizes[places < limits[-1]].sum()
        assert 0.9 * portion.wanted < kept <= portion.wanted
    assert limits[0] <= limits[1]


def test_edges_cut_all_places() -> None:
    assert sorted(set(EDGES)) == EDGES
    assert (EDGES[0], EDGES[-1]) == (PLACES >> 12, PLACES)
    # Each is within two percent of the one before, so that a little of much is met as well.
    assert max(b / a for a, b in pairwise(EDGES)) < 1.02


def test_something_is_left_of_every_source() -> None:
    bins = [0] * len(EDGES)
    bins[500] = 10_000
    portion = Portion(name="g", kind=Kind.general, documents=1, available=10_000, wanted=10)
    assert below(portion, bins=bins) == EDGES[500]
