# SPDX-License-Identifier: Apache-2.0
"""Loading refuses what does not fit, and takes no more memory than the rank's own share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.errors import ModelError
from tests.llama_cases import CASES, write_llama

pytestmark = pytest.mark.mcore
Tensors = dict[str, torch.Tensor]
FIRST_UP = "model.layers.0.mlp.up_proj.weight"


def load(folder: Path) -> list[Any]:
    from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    architecture = read_architecture(folder)
    chunks = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=32,
    )
    load_hf(chunks, folder=folder, architecture=architecture)
    return chunks


def edit(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def drop(tensors: Tensors) -> None:
    del tensors[FIRST_UP]


def widen(tensors: Tensors) -> None:
    tensors[FIRST_UP] = torch.zeros(73, 48)


def quantise(tensors: Tensors) -> None:
    tensors[FIRST_UP] = torch.zeros(72, 48, dtype=torch.int8)


def add(tensors: Tensors) -> None:
    tensors["model.layers.9.extra"] = torch.zeros(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, f"has no tensor {FIRST_UP}, which its config.json asks for"),
        (widen, rf"{FIRST_UP} in .* must have shape \[72, 48\], .* but has \[73, 48\]"),
        (quantise, f"{FIRST_UP} in .* must be of type F32, BF16 or F16, but is I8"),
        (add, r"has a tensor model.layers.9.extra that its config.json gives no place"),
    ],
)
def test_a_tensor_that_does_not_fit(
    change: Callable[[Tensors], object], message: str, tmp_path: Path, one_rank: None
) -> None:
    write_llama(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_a_truncated_file(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model.safetensors is not a whole safetensors file"):
        load(tmp_path)


def test_no_weights_at_all(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has neither model.safetensors nor .*index.json"):
        load(tmp_path)


def test_a_tied_head_that_is_stored_must_be_the_embedding(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path, **CASES["tied-gqa"])
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    edit(tmp_path, lambda t: t.update({"lm_head.weight": embedding.clone()}))
    load(tmp_path)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": embedding + 1}))
    with pytest.raises(ModelError, match=r"lm_head.weight in .* must equal model.embed_tokens"):
        load(tmp_path)


def test_frequencies_stored_by_old_versions_are_passed_over(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(tmp_path, lambda t: t.update({name: torch.zeros(4)}))
    load(tmp_path)


def under_the_head_s_name(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")


def without_the_prefix(tensors: Tensors) -> None:
    """As a base model is saved, without its head (LlamaModel)."""
    for name in list(tensors):
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def in_double_precision(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[name] = tensors[name].double()


def in_several_types(tensors: Tensors) -> None:
    for number, name in enumerate(list(tensors)):
        tensors[name] = tensors[name].to((torch.float16, torch.bfloat16, torch.float64)[number % 3])


@pytest.mark.parametrize(
    ("change", "tied"),
    [
        (under_the_head_s_name, True),
        (without_the_prefix, True),
        (without_the_prefix, False),
        (in_double_precision, False),
        (in_several_types, True),
    ],
)
def test_what_transformers_loads_is_loaded(
    change: Callable[[Tensors], object], tied: bool, tmp_path: Path, one_rank: None
) -> None:
    from transformers import AutoModelForCausalLM

    from megacpt.convert.in_memory import model_tensors
    from megacpt.families import read_architecture

    write_llama(tmp_path, num_hidden_layers=2, tie_word_embeddings=tied)
    edit(tmp_path, change)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    tensors = model_tensors(load(tmp_path), architecture=read_architecture(tmp_path))
    weights = {name: tensor.whole() for name, tensor in tensors.items()}
    expected = model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert len(weights) == len(expected) - tied


def test_many_files_with_an_index(tmp_path: Path, one_rank: None) -> None:
    from megacpt.convert.in_memory import model_tensors
    from megacpt.families import read_architecture

    model = write_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="50kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    tensors = model_tensors(load(tmp_path), architecture=read_architecture(tmp_path))
    weights = {name: tensor.whole() for name, tensor in tensors.items()}
    expected = model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "is not a safetensors index"),
        ("[", "is not a safetensors index"),
        (
            '{"weight_map": {"a": "model-1.safetensors"}}',
            "model-1.safetensors, which .* is missing",
        ),
    ],
)
def test_a_broken_index(index: str, message: str, tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_an_index_that_names_the_wrong_file(tmp_path: Path, one_rank: None) -> None:
    write_llama(tmp_path)
    names = list(load_file(tmp_path / "model.safetensors"))
    edit(tmp_path, drop)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"model-1.safetensors lacks {FIRST_UP}, which"):
        load(tmp_path)


def test_every_row_has_a_place_under_transformer_engine_names(tmp_path: Path) -> None:
    from megacpt.families import read_architecture
    from megacpt.model.placement import rows_by_native_name

    write_llama(tmp_path, **CASES["tied-all-biases"])
    rows = rows_by_native_name(read_architecture(tmp_path))
    layer = "decoder.layers.{layer}"
    for plain, fused in [
        ("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight"),
        ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"),
    ]:
        assert rows[f"{layer}.{plain}"] is rows[f"{layer}.{fused}"]
    assert rows["output_layer.weight"] is rows["embedding.word_embeddings.weight"]


MEASURE = """
import sys
from pathlib import Path
from megacpt.config.sections import *
from megacpt.device import runtime
from megacpt.device.environment import RankInfo
ranks = RankInfo(rank=0, world_size=1, local_rank=0, local_world_size=1,
                 master_addr="127.0.0.1", master_port=0)
runtime.start(ranks, cluster=ClusterConfig(device=DeviceKind.cpu, threads_per_rank=1))
from megatron.core import parallel_state
parallel_state.initialize_model_parallel()
from megacpt.model.build import build_model
from megacpt.families import read_architecture
from megacpt.model.weights import load_hf

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(key))

architecture = read_architecture(sys.argv[1])
chunks = build_model(architecture, parallel=ParallelConfig(), kind=DeviceKind.cpu,
                     precision=PrecisionConfig(dtype=Dtype.fp32), sequence_length=8)
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
load_hf(chunks, folder=sys.argv[1], architecture=architecture)
print(memory("VmHWM") - before, sum(p.nbytes for p in chunks[0].parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured through /proc")
def test_peak_memory_stays_near_the_model_itself(tmp_path: Path) -> None:
    write_llama(
        tmp_path,
        hidden_size=512,
        intermediate_size=2048,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_hidden_layers=12,
    )
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown, model = (int(n) for n in output.split()[-2:])
    assert model > 200e6
    assert grown < 1.15 * model
