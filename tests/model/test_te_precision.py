# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine's layers of every family in every recipe, constructed for real.

`make test-te` builds Transformer Engine and runs these; elsewhere they are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megacpt.families import FAMILIES, read_architecture
from megacpt.families.architecture import Architecture
from tests.family_cases import cases
from tests.model.test_te import run_python
from tests.run_on_ranks import run_on_ranks

pytestmark = [pytest.mark.te, pytest.mark.mcore, pytest.mark.slow]

FAMILY_CASES = {case.model_type: case for case in reversed(cases().values())}
"""The first of each family."""
# megatron-core lays a class of its own over delayed scaling, to keep wgrad in bf16 if asked.
EXPECTED: dict[str, dict[str, Any]] = {
    "delayed": {"kinds": "DelayedScaling", "format": "HYBRID"},
    "tensorwise": {"kinds": "Float8CurrentScaling", "format": "HYBRID"},
    "blockwise": {"kinds": "Float8BlockScaling", "format": "E4M3"},
    "mxfp8": {"kinds": "MXFP8BlockScaling", "format": "E4M3"},
    "nvfp4": {"kinds": "NVFP4BlockScaling", "format": "E2M1"},
}
PAIRS = [(family, recipe) for family in FAMILY_CASES for recipe in EXPECTED]


def require_engine() -> None:
    done = run_python("-c", "import transformer_engine.pytorch")
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it ends without a word"])[-1]
        pytest.skip(f"Transformer Engine cannot be imported: {reason}")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, which is made to believe that it has a GPU."""
    require_engine()
    work = tmp_path_factory.mktemp("te_precision")
    for name, case in FAMILY_CASES.items():
        case.config().save_pretrained(work / "models" / name)
    run_on_ranks("tests.model.te_recipes:describe_all", work, world=1, cases=None, timeout_s=900.0)
    built: dict[str, Any] = json.loads((work / "found.json").read_text())
    return built


def test_every_family_is_here() -> None:
    assert FAMILY_CASES.keys() == FAMILIES.keys()


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_the_engine_is_given_the_recipe(found: dict[str, Any], family: str, recipe: str) -> None:
    given, expected = found[f"{family} {recipe}"]["recipe"], EXPECTED[recipe]
    assert expected["kinds"] in given["kinds"]
    assert given["format"] == expected["format"]
    if recipe == "delayed":
        assert (given["amax_history_len"], given["amax_compute_algo"]) == (1024, "max")
        assert (given["margin"], given["reduce_amax"]) == (0, True)


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_first_and_last_layers_stay_in_bf16(
    found: dict[str, Any], family: str, recipe: str
) -> None:
    """One of each, but with delayed scaling, which cannot leave any out."""
    built = found[f"{family} {recipe}"]
    inner = [True] * (read_architecture(built["folder"]).num_layers - 2)
    expected = [True, *inner, True] if recipe == "delayed" else [False, *inner, False]
    assert built["quantised"] == expected


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_layers_are_the_engines_own(found: dict[str, Any], family: str, recipe: str) -> None:
    built = found[f"{family} {recipe}"]
    layers, architecture = set(built["layers"]), read_architecture(built["folder"])
    begins = begins_with_norm(architecture)
    first = "TELayerNormColumnParallelLinear" if begins else "TEColumnParallelLinear"
    assert {first, "TERowParallelLinear"} <= layers
    assert ("TEGroupedMLP" in layers) == architecture.has_experts(0)


def begins_with_norm(architecture: Architecture) -> bool:
    """Whether a linear layer of the first layer does, of attention or of an MLP."""
    norms, net = architecture.norms, architecture.delta_net
    if not norms.before or architecture.parallel_mlp or (norms.centred and not norms.bias):
        return False
    is_usual = architecture.latent is None and (net is None or 0 not in net.layers)
    return is_usual or not architecture.has_experts(0)


@pytest.mark.parametrize(("family", "recipe"), PAIRS)
def test_checkpoints_have_the_keys_and_shapes_of_the_cpus(
    found: dict[str, Any], family: str, recipe: str
) -> None:
    """Tensors are the same; the engine's layers have a state of their own besides."""

    def tensors(keys: dict[str, Any]) -> dict[str, Any]:
        return {key: shape for key, shape in keys.items() if shape is not None}

    built = found[f"{family} {recipe}"]
    assert tensors(built["keys"]) == tensors(built["plain_keys"])
    states = {key for key in built["keys"] if "_extra_state" in key}
    assert any(".self_attention." in key for key in states)


@pytest.mark.parametrize("family", FAMILY_CASES)
def test_weights_pass_to_the_engine_and_back(found: dict[str, Any], family: str) -> None:
    """Through checkpoints in files, bit for bit."""
    assert found[f"{family} delayed"]["round_trip"] is True


def test_an_engine_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """Without its CUDA libraries it is installed, and of no use."""
    require_engine()
    code = (
        "from megacpt.device import fp8\n"
        "version, fault = fp8.engine_version()\n"
        "assert version\n"
        "print(fault or '')\n"
    )
    done = run_python("-c", code, LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    if not done.stdout.strip():
        pytest.skip("this build of torch brings the libraries along")
    assert "Error" in done.stdout


def test_reference_quantisers_give_the_same_bits(tmp_path: Path) -> None:
    """Current scaling, scales of blocks and NVFP4, of 40 matrices."""
    require_engine()
    run_on_ranks("tests.model.te_quantisers:compare", tmp_path, world=1, cases=None)
    results: dict[str, dict[str, bool]] = json.loads((tmp_path / "oracle.json").read_text())
    wrong = [f"{case}: {name}" for case in results for name, ok in results[case].items() if not ok]
    assert len(results) == 40
    assert wrong == []
