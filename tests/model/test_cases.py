# SPDX-License-Identifier: Apache-2.0
"""On every layout its rules allow a native model is transformers' model: logits, losses, gradients,
weights in and out. Without what the family adds it is another one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pprint import pformat
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megacpt.families import FAMILIES, family_of, read_architecture
from megacpt.families.stored.places import hf_shapes
from tests.family_cases import (
    LAYOUTS,
    VOCAB_SIZE,
    allowed_layouts,
    cases,
    cases_of_families,
    dealt_layouts,
)
from tests.model.case_outputs import TOKENS_BS, tokens_of_documents
from tests.run_on_ranks import run_on_ranks

pytestmark = [pytest.mark.mcore, pytest.mark.every_mcore, pytest.mark.slow]

CASES = cases()


@dataclass(frozen=True, kw_only=True)
class Work:
    """What transformers and the ranks have found."""

    folder: Path
    models: Mapping[str, Any]
    """transformers', by case."""
    layouts: Mapping[str, Sequence[str]]
    """Of each case."""

    def found(self, layout: str, *, case: str) -> list[dict[str, Any]]:
        """One of each rank."""
        ranks = range(LAYOUTS[layout].ranks)
        return [torch.load(self.folder / f"{layout}-{case}-{rank}.pt") for rank in ranks]

    def whole(self, layout: str, *, case: str, of: str) -> dict[str, torch.Tensor]:
        """The tensors of the folder, put together from what the ranks hold."""
        parts: dict[str, dict[int, torch.Tensor]] = {}
        dims: dict[str, int | None] = {}
        for rank in self.found(layout, case=case):
            places, values = rank[of]
            pieces = values.split([math.prod(shape) for _, _, shape in places.values()])
            for (name, (dim, part, shape)), piece in zip(places.items(), pieces, strict=True):
                parts.setdefault(name, {})[part] = piece.view(shape)
                dims[name] = dim
        whole = {}
        for name, slices in parts.items():
            dim, ordered = dims[name], [slices[n] for n in sorted(slices)]
            values = slices[0] if dim is None else torch.cat(ordered, dim=dim)
            whole[name] = values[:VOCAB_SIZE] if "embed" in name or "lm_head" in name else values
        return whole


@dataclass(frozen=True)
class Reference:
    """transformers' float32 model, with documents apart or not."""

    folder: Path
    model: Any
    packed: bool
    stored_as: Callable[[str], str]

    @cached_property
    def logits_BSV(self) -> torch.Tensor:
        if not self.packed:
            logits: torch.Tensor = self.model(TOKENS_BS).logits
            return logits
        parts = [self.model(tokens[None]).logits[0] for tokens in tokens_of_documents()]
        return torch.cat(parts).view(*TOKENS_BS.shape, -1)

    @cached_property
    def losses_BS(self) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(
            self.logits_BSV.flatten(0, 1), TOKENS_BS.flatten(), reduction="none"
        )
        return losses.view_as(TOKENS_BS)

    @cached_property
    def gradients(self) -> dict[str, torch.Tensor]:
        """Of the mean loss, by the names of a folder, also where transformers holds several of its
        tensors as one."""
        self.model.zero_grad()
        self.losses_BS.mean().backward()
        architecture = read_architecture(self.folder)
        named = self.model.named_parameters()
        held = {self.stored_as(n): p.grad for n, p in named if p.grad is not None}
        parts = family_of(architecture).parts(architecture)
        found = {}
        buffers = {name for name, _ in self.model.named_buffers()}
        for name, shape in hf_shapes(architecture).items():
            part = parts.get(name)
            if name in buffers:
                continue
            if name in held or part is None:
                found[name] = held[name]
            else:
                where = part.where(shape, dim=None, span=None)
                found[name] = part.within(held[part.name][where]).reshape(shape)
        return found


def in_layout(layout: str) -> Callable[[str], str]:
    return lambda message: f"{layout}: {message}"


@pytest.fixture(scope="module")
def allowed() -> Mapping[str, Sequence[str]]:
    return allowed_layouts()


@pytest.fixture(scope="module")
def work(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    allowed: Mapping[str, Sequence[str]],
) -> Iterator[Work]:
    """The cases of the tests that were asked for, one set of processes a world size."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("cases")
    mine = [item for item in request.session.items if item.path == request.path]
    params = [item.callspec.params for item in mine if hasattr(item, "callspec")]
    asked = {one["case"]: None for one in params if "case" in one}
    models = {case: CASES[case].write(folder / "models" / case) for case in asked}
    for case in asked:
        # Read anew, because transformers leaves some tensors in float32 as it reads.
        read = AutoModelForCausalLM.from_pretrained(folder / "models" / case, dtype=torch.bfloat16)
        read.save_pretrained(folder / "bf16" / case)
    layouts = allowed if request.config.getoption("--thorough") else dealt_layouts(allowed)
    for world in sorted({layout.ranks for layout in LAYOUTS.values()}):
        run_on_ranks(
            "tests.model.case_outputs:write_outputs",
            folder,
            world=world,
            cases={
                name: [case for case in asked if name in layouts[case]]
                for name, layout in LAYOUTS.items()
                if layout.ranks == world
            },
            timeout_s=3600.0,
        )
    yield Work(folder=folder, models=models, layouts=layouts)
    # Of all layouts gigabytes.
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def config_of_a_failure(request: pytest.FixtureRequest) -> None:
    """What config.json says of the case is among what pytest prints where a test fails."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if "case" in params:
        case = CASES[params["case"]]
        request.node.add_report_section("setup", "config.json", pformat(case.changes))


@pytest.fixture(scope="module")
def references(work: Work) -> Any:
    kept: dict[tuple[str, bool], Reference] = {}

    def get(case: str, *, packed: bool) -> Reference:
        key = case, packed
        model, stored_as = work.models[case], CASES[case].stored_as
        folder = work.folder / "models" / case
        return kept.setdefault(
            key, Reference(folder=folder, model=model, packed=packed, stored_as=stored_as)
        )

    return get


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, work: Work, references: Any) -> None:
    for layout in work.layouts[case]:
        reference = references(case, packed=LAYOUTS[layout].packed)
        outputs = [rank for rank in work.found(layout, case=case) if rank["logits"] is not None]
        assert outputs
        logits_BSV, losses_BS = outputs[0]["logits"], outputs[0]["losses"]
        close = {"atol": CASES[case].logits_atol, "rtol": 0.0}
        expected = reference.logits_BSV.detach()
        torch.testing.assert_close(
            logits_BSV[..., :VOCAB_SIZE], expected, msg=in_layout(layout), **close
        )
        torch.testing.assert_close(
            losses_BS, reference.losses_BS.detach(), msg=in_layout(layout), **close
        )
        # Rows that fill the vocabulary up never win.
        assert bool((logits_BSV[..., VOCAB_SIZE:] == torch.finfo(torch.float32).min).all())


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_transformers(case: str, work: Work, references: Any) -> None:
    for layout in work.layouts[case]:
        expected = references(case, packed=LAYOUTS[layout].packed).gradients
        found = work.whole(layout, case=case, of="gradients")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            atol, where = 1e-4 * float(gradient.abs().max()), in_layout(f"{layout} {name}")
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=atol, msg=where)


@pytest.mark.parametrize("case", CASES)
def test_random_weights_do_not_depend_on_the_layout(case: str, work: Work) -> None:
    """Documents apart change none."""
    single = work.whole("single", case=case, of="random")
    for layout in (name for name in work.layouts[case] if not LAYOUTS[name].packed):
        found = work.whole(layout, case=case, of="random")
        assert found.keys() == single.keys()
        assert all(torch.equal(found[name], single[name]) for name in single), layout


@pytest.mark.parametrize("case", CASES)
def test_export_of_import_is_bit_identical(case: str, work: Work) -> None:
    (found,) = work.found("single", case=case)
    for folder in ("models", "bf16"):
        expected = load_file(work.folder / folder / case / "model.safetensors")
        assert found[folder].keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[folder][name].dtype == tensor.dtype
            assert torch.equal(found[folder][name], tensor), name


ABLATIONS = [(n, what) for n, case in CASES.items() for what in (*case.without, *case.spoilt)]


@pytest.mark.parametrize(("case", "what"), ABLATIONS)
def test_without_it_the_model_is_another_one(
    case: str, what: str, work: Work, references: Any
) -> None:
    """Nowhere near the tolerance: a mistake of this kind cannot pass for rounding."""
    (found,) = work.found("single", case=case)
    expected = references(case, packed=False).logits_BSV.detach()
    difference = float((found["ablations"][what] - expected).abs().max())
    assert difference > 1000 * CASES[case].logits_atol


def test_no_layout_is_left_out(allowed: Mapping[str, Sequence[str]]) -> None:
    """Of one of each kind: what its rules refuse is known."""
    experts = {"tp2-ep2", "ep2"}
    assert set(LAYOUTS) - set(allowed["llama-plain"]) == experts
    # Two key-value heads.
    assert set(LAYOUTS) - set(allowed["llama-tied-gqa"]) == experts | {"tp3"}
    assert set(LAYOUTS) - set(allowed["mixtures-top2-of-4"]) == {"tp2", "tp3"}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_family_has_its_share_of_layouts(
    model_type: str, allowed: Mapping[str, Sequence[str]]
) -> None:
    shares, names = dealt_layouts(allowed), cases_of_families()[model_type]
    possible = {layout for name in names for layout in allowed[name]}
    several = {layout for layout in possible if LAYOUTS[layout].ranks > 1}
    dealt = [layout for name in names for layout in shares[name]]
    for layout in possible - several:
        assert dealt.count(layout) == len(names)
    found = [layout for layout in dealt if layout in several]
    assert len(found) == len(set(found)) >= len(several) // 3 - 1 >= 1
    assert all(set(shares[name]) <= set(allowed[name]) for name in names)


def test_each_layout_is_dealt_to_many_families(allowed: Mapping[str, Sequence[str]]) -> None:
    shares = dealt_layouts(allowed)
    for layout, how in LAYOUTS.items():
        takers = [name for name, share in shares.items() if layout in share]
        assert len(takers) >= (len(shares) if how.ranks == 1 else 2), layout
