# SPDX-License-Identifier: Apache-2.0
"""Two hundred layouts drawn at random: what the rules let through runs and computes the same as
one rank; what they refuse is refused by them, with a layout that works."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from megacpt.cluster.prepare import prepare
from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError
from megacpt.families import read_architecture
from megacpt.families.architecture import Architecture
from megacpt.plan.check import nearest_valid_layout, violations
from megacpt.plan.nearest_layout import as_text, with_settings
from tests.run_on_ranks import run_on_ranks
from tests.train.curves import parity_config
from tests.train.parity import GRAD_NORM_RTOL, LOSS_RTOL, write_run_inputs

COUNT = 200
MOST_RANKS = 4
TOY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6}
EXPERTS = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.1,
}
SHAPES = [
    {"tp": tp, "cp": cp, "pp": pp, "dp": dp}
    for tp in (1, 2, 3, 4)
    for cp in (1, 2, 3, 4)
    for pp in (1, 2, 3, 4)
    for dp in (1, 2, 3, 4)
    if tp * cp * pp * dp <= MOST_RANKS
]
REPLICAS = [
    *[()] * 3,
    ("overlap_grad_reduce",),
    *[("distributed_optimizer",)] * 3,
    ("distributed_optimizer", "overlap_grad_reduce"),
    ("distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather"),
    ("sharded_weights",),
    ("sharded_weights", "distributed_optimizer"),
    ("overlap_param_gather",),
]
"""How replicas divide their work; the last two are not possible."""
Case = dict[str, Any]


def seldom(value: Any, *, default: Any = None) -> st.SearchStrategy[Any]:
    """Most draws leave a setting alone, or hardly any layout would be valid."""
    return st.sampled_from([default] * 9 + [value])


@st.composite
def layouts(draw: st.DrawFn) -> Case:
    """Model, layout and batch, as changes of ``parity_config``."""
    parallel = dict(draw(st.sampled_from(SHAPES)))
    with_experts = draw(st.booleans())
    staged = parallel["pp"] > 1
    layers = st.sampled_from([None] * 6 + [1, 2, 3]) if staged else seldom(1)
    ranks = parallel["tp"] * parallel["cp"] * parallel["dp"]
    some_experts = st.sampled_from([n for n in (1, 2, 4) if ranks % n == 0])
    optional = {
        "vpp": draw(st.sampled_from([1, 1, 1, 2, 3]) if staged else seldom(2, default=1)),
        "ep": draw(some_experts if with_experts else seldom(2, default=1)),
        "etp": draw(seldom(1)),
        "first_stage_layers": draw(layers),
        "last_stage_layers": draw(layers),
        "sequence_parallel": draw(seldom(parallel["tp"] == 1, default=parallel["tp"] > 1)),
        "recompute": draw(st.sampled_from(["none", "selective", "full"])),
        "recompute_layers": draw(seldom(1)),
    }
    parallel |= {name: value for name, value in optional.items() if value is not None}
    parallel |= dict.fromkeys(draw(st.sampled_from(REPLICAS)), True)
    return {
        "model": {"path": "experts" if with_experts else "dense"},
        "parallel": parallel,
        "optim": {"offload": "distributed_optimizer" in parallel and draw(seldom(True)) is True},
        "data": {
            "sequence_length": draw(st.sampled_from([24, 32])),
            "global_batch_size": draw(st.sampled_from([8, 12])),
            "micro_batch_size": draw(st.sampled_from([1, 1, 2])),
            "document_mask": draw(seldom(True)) is True,
        },
    }


def drawn(count: int) -> list[Case]:
    """The same ones in every run."""
    cases: dict[str, Case] = {}

    @settings(
        max_examples=4 * count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(layouts())
    def collect(case: Case) -> None:
        cases[json.dumps(case, sort_keys=True)] = case

    collect()
    return list(cases.values())[:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """All cases, by what the rules say of them."""

    work: Path
    cases: dict[str, Case]
    configs: dict[str, RunConfig]
    architectures: dict[str, Architecture]
    valid: list[str]
    invalid: list[str]


@pytest.fixture(scope="module")
def sorted_out(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    work = tmp_path_factory.mktemp("layouts")
    write_run_inputs(work, tied=True)
    for name, changes in (("dense", TOY), ("experts", TOY | EXPERTS)):
        shutil.copytree(work / "model", work / name)
        path = work / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    cases = {str(n): with_folder(case, work) for n, case in enumerate(drawn(COUNT))}
    configs = {name: parity_config(work, case) for name, case in cases.items()}
    architectures = {
        name: read_architecture(Path(case["model"]["path"])) for name, case in cases.items()
    }
    broken = {
        name: violations(config, architecture=architectures[name])
        for name, config in configs.items()
    }
    return Layouts(
        work=work,
        cases=cases,
        configs=configs,
        architectures=architectures,
        valid=[name for name, found in broken.items() if not found],
        invalid=[name for name, found in broken.items() if found],
    )


def with_folder(case: Case, work: Path) -> Case:
    return case | {"model": {"path": str(work / case["model"]["path"])}}


def test_both_kinds_are_well_represented(sorted_out: Layouts) -> None:
    assert len(sorted_out.cases) == COUNT
    assert min(len(sorted_out.valid), len(sorted_out.invalid)) >= COUNT // 5
    features = {
        name
        for valid in sorted_out.valid
        for name, value in sorted_out.cases[valid]["parallel"].items()
        if value is True or value not in (1, False, "none")
    }
    assert features >= {
        *("tp", "cp", "pp", "vpp", "dp", "ep", "first_stage_layers", "last_stage_layers"),
        *("sequence_parallel", "distributed_optimizer", "sharded_weights", "recompute"),
    }


def test_what_is_refused_is_refused_with_a_layout_that_works(sorted_out: Layouts) -> None:
    for name in sorted_out.invalid:
        config, architecture = sorted_out.configs[name], sorted_out.architectures[name]
        nearest = nearest_valid_layout(config, architecture=architecture)
        assert nearest, sorted_out.cases[name]
        for violation in violations(config, architecture=architecture):
            assert violation.remedy.endswith(f"nearest valid layout: {as_text(nearest)}")
        fixed = with_settings(config, settings=nearest)
        assert violations(fixed, architecture=architecture) == [], sorted_out.cases[name]


def test_no_process_is_started_for_them(sorted_out: Layouts) -> None:
    """``prepare`` comes before the first of them and is all that is needed to refuse."""
    for name in sorted_out.invalid[:10]:
        with pytest.raises(ConfigError, match="nearest valid layout"):
            prepare(sorted_out.configs[name])


@pytest.mark.mcore
@pytest.mark.slow
def test_what_is_let_through_computes_the_same_as_one_rank(
    sorted_out: Layouts, pytestconfig: pytest.Config
) -> None:
    """All with --thorough, else a third."""
    chosen = sorted_out.valid[:: 1 if pytestconfig.getoption("--thorough") else 3]
    worlds: dict[int, dict[str, Case]] = defaultdict(dict)
    for name in chosen:
        case = sorted_out.cases[name]
        worlds[sorted_out.configs[name].parallel.num_ranks][name] = case
        worlds[1][reference(case)] = case | {"parallel": {}, "optim": {}}
    found: dict[str, tuple[float, float]] = {}
    for world, cases in sorted(worlds.items()):
        run_on_ranks("tests.train.one_step:write_steps", sorted_out.work, world=world, cases=cases)
        found |= json.loads((sorted_out.work / f"steps-{world}.json").read_text())
    for name in chosen:
        case = sorted_out.cases[name]
        loss, norm = found[reference(case)]
        np.testing.assert_allclose(found[name][0], loss, rtol=LOSS_RTOL, err_msg=str(case))
        np.testing.assert_allclose(found[name][1], norm, rtol=GRAD_NORM_RTOL, err_msg=str(case))


def reference(case: Case) -> str:
    """The name of the run on one rank with the same model, samples and microbatches.

    Microbatches matter to experts alone: with a document mask their rows lie end to end, and the
    balancing loss is taken over all of them.
    """
    return f"single {Path(case['model']['path']).name} {sorted(case['data'].items())}"
