# SPDX-License-Identifier: Apache-2.0
"""The table of families: what each adds to Llama, and which layouts its rules allow.

All of it is found, none listed: the registry, the docstring of a family's file, and the rules of
the plan, asked about an example of the family. ``tests/model/test_cases.py`` compares each family
with transformers on every layout that these rules allow.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import wrap

from megacpt.config.sections import (
    ClusterConfig,
    DataConfig,
    DeviceKind,
    ParallelConfig,
    RunConfig,
)
from megacpt.errors import Violation
from megacpt.families import FAMILIES, Family
from megacpt.families.architecture import Architecture
from megacpt.families.hf_config import HfConfig
from megacpt.families.stored.nearest import MISSING
from megacpt.families.stored.nested import OUTER, SAME_AS
from megacpt.plan.check import RULES
from megacpt.plan.rules import Facts
from megacpt.text import wrapped

WIDTH = 80
EXAMPLE = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
}
"""Sizes of which all that is cut in two can be cut in two."""
_TP2 = ParallelConfig(tp=2)
_TP2_SP = ParallelConfig(tp=2, sequence_parallel=True)
_TP2_EXPERTS = ParallelConfig(tp=2, sequence_parallel=True, etp=1)
PROBES: Mapping[str, Sequence[Facts]] = {
    "tp": [Facts(config=RunConfig(parallel=p)) for p in (_TP2, _TP2_SP, _TP2_EXPERTS)],
    "sp": [Facts(config=RunConfig(parallel=p)) for p in (_TP2_SP, _TP2_EXPERTS)],
    "pp": [Facts(config=RunConfig(parallel=ParallelConfig(pp=2)))],
    "vpp": [Facts(config=RunConfig(parallel=ParallelConfig(pp=2, vpp=2)))],
    "ep": [Facts(config=RunConfig(parallel=ParallelConfig(dp=2, ep=2)))],
    "cp": [Facts(config=RunConfig(parallel=ParallelConfig(cp=2)))],
    "packed": [Facts(config=RunConfig(data=DataConfig(document_mask=True)))],
    "GPU": [Facts(config=RunConfig(cluster=ClusterConfig(device=DeviceKind.gpu)))],
}
"""One of these has to be allowed."""
_CLASSES = {
    "granitemoe": "GraniteMoe",
    "granitemoeshared": "GraniteMoeShared",
    "smollm3": "SmolLM3",
    "stablelm": "StableLm",
}
"""What transformers writes in another way than as words that begin with capitals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """A family as people choose by."""

    model_type: str
    architecture: str
    """transformers' class, as config.json names it."""
    name: str
    adds: str
    """What it computes beside Llama."""
    refused: Mapping[str, str]
    """Layout or device -> why it is not for this family; all others are."""
    inside: tuple[str, ...]
    """Models of text and images whose text it is by default."""


def family_rows() -> list[FamilyRow]:
    return [_row(name, family=family) for name, family in sorted(FAMILIES.items())]


def families_text(rows: Sequence[FamilyRow]) -> str:
    """The table for a terminal of 80 columns."""
    cells = [("model_type", "class", *PROBES)]
    for row in rows:
        marks = ("-" if key in row.refused else "x" for key in PROBES)
        cells.append((row.model_type, row.architecture, *marks))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *lines = (_columns(line, widths=widths) for line in cells)
    parts = [line for row, text in zip(rows, lines, strict=True) for line in (text, *_details(row))]
    inside = sorted({outer for row in rows for outer in row.inside})
    notes = (
        "x: compared with transformers on CPU ranks, in logits, gradients and conversion both "
        "ways; GPU: layers constructed of Transformer Engine's, not run.",
        f"Text inside: {', '.join(inside)}.",
        f"Refused by name: {', '.join(sorted(MISSING))}.",
    )
    return "\n".join([head, *parts, "", *(line for note in notes for line in wrap(note, WIDTH))])


def _columns(cells: Sequence[str], *, widths: Sequence[int]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _details(row: FamilyRow) -> Iterator[str]:
    # That a dense model has no experts to deal is no news.
    reasons = (f"{key}: {why}" for key, why in row.refused.items() if key != "ep")
    for text in (f"{row.name}: {row.adds}", *reasons):
        yield from wrapped(text, head="  ", indent=2)


def example_of(family: Family) -> Architecture:
    """A model of the family, of its own defaults as far as sizes leave any."""
    return family.read(HfConfig(path=Path("config.json"), values=EXAMPLE))


def class_of(model_type: str) -> str:
    own = model_type.removesuffix("_text")
    words = re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), own)
    return f"{_CLASSES.get(own, words)}ForCausalLM"


def _row(model_type: str, *, family: Family) -> FamilyRow:
    said = (sys.modules[family.read.__module__].__doc__ or "").partition("\n\n")[0]
    name, _, adds = " ".join(said.split()).partition(": ")
    architecture = example_of(family)
    refused = {key: _why_not(probes, architecture=architecture) for key, probes in PROBES.items()}
    texts = {outer: SAME_AS.get(text, text) for outer, text in OUTER.items()}
    return FamilyRow(
        model_type=model_type,
        architecture=class_of(model_type),
        name=name,
        adds=adds,
        refused={key: why for key, why in refused.items() if why is not None},
        inside=tuple(outer for outer, text in texts.items() if text == model_type),
    )


def _why_not(probes: Sequence[Facts], *, architecture: Architecture) -> str | None:
    """The rule that forbids all of the probes, unless it forbids what no model is asked."""
    usual = _broken(Facts(config=RunConfig(), architecture=architecture))
    for facts in probes:
        known = usual | _broken(facts)
        found = _broken(replace(facts, architecture=architecture))
        why = next((text for key, text in found.items() if key not in known), None)
        if why is None:
            return None
    return why


def _broken(facts: Facts) -> dict[str, str]:
    return {v.path + v.rule: _said(v) for rule in RULES for v in rule(facts)}


def _said(violation: Violation) -> str:
    return f"{violation.path}={violation.value} {violation.rule}"
