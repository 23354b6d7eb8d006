# SPDX-License-Identifier: Apache-2.0
"""A model with packed weights is the one that bitsandbytes packs, on one rank and on several."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megacpt.config.sections import BaseWeights, DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.errors import ModelError
from megacpt.families import param_rows, read_architecture
from megacpt.families.counts import num_parameters
from megacpt.families.packing import is_packed, packed_bytes
from tests.family_cases import SIZES, cases, cases_of_families
from tests.llama_cases import TOKENS_BS, write_llama
from tests.model.frozen.on_ranks import built, passed, weights
from tests.run_on_ranks import run_on_ranks

pytestmark = pytest.mark.mcore
LLAMA = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTURE = (
    SIZES
    | LLAMA
    | {"moe_intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}
)
TP2 = {"tp": 2, "sequence_parallel": True}


@pytest.fixture(scope="module")
def bnb() -> Any:
    return pytest.importorskip("bitsandbytes")


def write_packed(folder: Path, *, packing: BaseWeights, functional: Any) -> None:
    """Beside the folder its copy in which each matrix of a layer has the values that bitsandbytes
    makes of it, whole."""
    copy = folder.with_name(f"{folder.name}-{packing.name}")
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    for name, tensor in tensors.items():
        if name.startswith("model.layers.") and tensor.dim() == 2 and ".gate.weight" not in name:
            tensors[name] = replaced(tensor, packing=packing, functional=functional)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})


def replaced(tensor: torch.Tensor, *, packing: BaseWeights, functional: Any) -> torch.Tensor:
    if packing is BaseWeights.nf4:
        packed, state = functional.quantize_4bit(tensor, blocksize=64, quant_type="nf4")
        return functional.dequantize_4bit(packed, state)
    # It rounds to float16 first, which these numbers are. Back as its layer does in training.
    codes, scales, _ = functional.int8_vectorwise_quant(tensor.half())
    return codes.float().mul_(scales.unsqueeze(1).mul(1.0 / 127.0))


def write_llama_like(folder: Path, *, functional: Any) -> None:
    write_llama(folder, **LLAMA)
    _round(folder)
    for packing in BaseWeights:
        write_packed(folder, packing=packing, functional=functional)


def _round(folder: Path) -> None:
    """To what float16 holds."""
    path = folder / "model.safetensors"
    rounded = {name: tensor.half().float() for name, tensor in load_file(path).items()}
    save_file(rounded, path, metadata={"format": "pt"})


def test_one_rank_and_two_have_the_same_bits(bnb: Any, tmp_path: Path) -> None:
    """Those of each Hugging Face matrix packed by itself, though ranks cut them and hold several in
    one; experts too, dealt to ranks and cut."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    write_llama_like(tmp_path / "llama", functional=bnb.functional)
    torch.manual_seed(2)
    mixture = Qwen3MoeForCausalLM(Qwen3MoeConfig(**MIXTURE))
    mixture.save_pretrained(tmp_path / "moe")
    _round(tmp_path / "moe")
    for packing in BaseWeights:
        write_packed(tmp_path / "moe", packing=packing, functional=bnb.functional)
    llama, moe = {"case": "llama"}, {"case": "moe"}
    layouts = {
        "tp2": llama | {"parallel": {"tp": 2}},
        "tp2-sp": llama | {"parallel": TP2},
        "experts-cut": moe | {"parallel": TP2},
        "experts-dealt": moe | {"parallel": {"dp": 2, "ep": 2}},
    }
    run_on_ranks("tests.model.frozen.on_ranks:compare", tmp_path, world=2, cases=layouts)
    single = {"single": llama | {"parallel": {}}}
    run_on_ranks("tests.model.frozen.on_ranks:compare", tmp_path, world=1, cases=single)


def test_as_transformers_packs_it(bnb: Any, tmp_path: Path, one_rank: None) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    write_llama(tmp_path, **LLAMA)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    # In evaluation mode it would go over to another form of weights and bf16 products.
    theirs.train()
    expected_BSV = theirs(TOKENS_BS).logits.detach()
    mine, plain = (
        built(tmp_path, packing=packing, parallel=ParallelConfig())
        for packing in (BaseWeights.nf4, None)
    )
    positions = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    with torch.no_grad():
        found_BSV, plain_BSV = (model(TOKENS_BS, positions, None) for model in (mine, plain))
    torch.testing.assert_close(found_BSV, expected_BSV, atol=2e-5, rtol=0.0)
    assert (plain_BSV - expected_BSV).abs().max() > 0.1


def test_packed_weights_are_no_parameters_and_not_saved(
    bnb: Any, tmp_path: Path, one_rank: None
) -> None:
    write_llama(tmp_path, **LLAMA)
    mine = built(tmp_path, packing=BaseWeights.nf4, parallel=ParallelConfig())
    named = dict(mine.named_parameters())
    assert not any(".linear_" in name and name.endswith(".weight") for name in named)
    assert not any(".linear_" in name and "_extra_state" not in name for name in mine.state_dict())
    assert {"embedding.word_embeddings.weight", "output_layer.weight"} <= named.keys()
    assert not any(parameter.is_meta for parameter in named.values())
    metadata = {"dp_cp_group": torch.distributed.group.WORLD}
    saved = mine.sharded_state_dict(metadata=metadata)
    assert not any(".linear_" in name and "_extra_state" not in name for name in saved)


@pytest.mark.parametrize("name", [names[0] for names in cases_of_families().values()])
def test_every_family_has_its_matrices_packed(name: str, one_rank: None) -> None:
    """Those that plan counts, and no others; losses and gradients come through."""
    from megacpt.model.build import build_model
    from megacpt.model.frozen.linear import pack_linears
    from megacpt.model.weights import initialise_randomly

    architecture = cases()[name].architecture().balanced_by(0.0)
    (chunk,) = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=TOKENS_BS.shape[1],
    )
    chunk.decoder.requires_grad_(False)
    pack_linears(chunk, packing=BaseWeights.int8)
    initialise_randomly([chunk], architecture=architecture, seed=1)
    rows = [row for row in param_rows(architecture) if is_packed(row)]
    counted = sum(
        packed_bytes(row, architecture=architecture, packing=BaseWeights.int8) for row in rows
    )
    assert sum(buffer.nbytes for w in weights(chunk).values() for buffer in w.buffers()) == counted
    losses_BS, gradient = passed(chunk)
    assert losses_BS.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured through /proc")
def test_memory_while_it_is_loaded(bnb: Any, tmp_path: Path) -> None:
    """Never more than what is packed, and one matrix that is being: not the model in bf16."""
    write_llama(
        tmp_path / "model",
        dtype=torch.bfloat16,
        hidden_size=512,
        intermediate_size=2048,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_hidden_layers=16,
    )
    run_on_ranks("tests.model.frozen.on_ranks:measure", tmp_path, world=1, cases="nf4")
    grown, held = map(int, (tmp_path / "nf4.txt").read_text().split())
    in_bf16 = 2 * num_parameters(read_architecture(tmp_path / "model"))
    assert in_bf16 > 130e6
    assert held < 0.3 * in_bf16
    # Beside it a matrix takes 25 MB for a moment, whatever the model's size; bf16 would be 96 more.
    assert grown < held + 50e6


def test_layers_of_other_modules_are_refused(one_rank: None) -> None:
    from megacpt.model.frozen.linear import pack_linears

    chunk = torch.nn.Module()
    chunk.decoder = torch.nn.Linear(64, 64).requires_grad_(False)
    with pytest.raises(ModelError, match=r"not in Transformer Engine's; use cluster.device=cpu"):
        pack_linears(chunk, packing=BaseWeights.nf4)
