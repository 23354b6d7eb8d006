# SPDX-License-Identifier: Apache-2.0
"""What megatron-core has saved, transformers computes as megatron-core does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.errors import CheckpointError
from tests.convert.foreign.megatron_models import (
    CASES,
    FORMS,
    TOKENS_BS,
    gpt_model,
    logits,
    save,
    write_config,
)

pytestmark = [pytest.mark.mcore, pytest.mark.usefixtures("one_rank")]
CLOSE = {"atol": 2e-5, "rtol": 0.0}


def opened(root: Path, *, base: Path) -> Any:
    from megacpt.convert.opened import open_source

    return open_source(root, base=base)


def read(source: Any) -> dict[str, torch.Tensor]:
    """Each tensor in two pieces."""
    return {
        name: torch.cat([t.rows(0, count=1), t.rows(1, count=t.shape[0] - 1)])
        for name, t in source.tensors.items()
    }


def computed(tensors: dict[str, torch.Tensor], *, config: Any) -> torch.Tensor:
    """What transformers makes of the weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    fill(model, tensors=tensors)
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS_BS).logits
    return found


def fill(model: Any, *, tensors: dict[str, torch.Tensor]) -> None:
    """transformers 5 holds the experts of a layer as one tensor."""
    state = model.state_dict()
    for name, target in state.items():
        path, _, kind = name.rpartition(".experts.")
        if not path:
            target.copy_(tensors.get(name, tensors["model.embed_tokens.weight"]))
            continue
        for expert in range(len(target)):
            parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
            found = [tensors[f"{path}.experts.{expert}.{part}.weight"] for part in parts]
            target[expert].copy_(torch.cat(found))


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_what_megatron_does(tmp_path: Path, case: str) -> None:
    config = write_config(tmp_path / "hf", **CASES[case])
    model = gpt_model(config)
    expected = logits(model)
    for form in FORMS:
        save(model, root=tmp_path / form, form=form, fused_norms=form != "layers")
        source = opened(tmp_path / form, base=tmp_path / "hf")
        tensors = read(source)
        torch.testing.assert_close(computed(tensors, config=config), expected, **CLOSE)
    # It would show: other heads' queries are another model.
    name = "model.layers.1.self_attn.q_proj.weight"
    other = computed(tensors | {name: tensors[name].roll(8, 0)}, config=config)
    assert float((other - expected).abs().max()) > 0.01


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of the iteration of a small Llama; its config.json is in ``hf``."""
    config = write_config(tmp_path / "hf", **CASES["llama"])
    return save(gpt_model(config), root=tmp_path / "run")


def test_what_does_not_fit_is_named(tmp_path: Path, saved: Path) -> None:
    for change, message in (
        ({"intermediate_size": 80}, r"mlp.linear_fc1.weight in .* must have shape \[2, 160, 48\]"),
        ({"num_hidden_layers": 3}, r"must have shape \[3, .* but has \[2, "),
        ({"num_hidden_layers": 1}, r"must have shape \[1, .* but has \[2, "),
        ({"vocab_size": 300}, r"word_embeddings.weight in .* must have shape \[300, 48\]"),
        ({"rms_norm_eps": 1e-5}, r"norm_epsilon=0\.001, but .*config\.json states 1e-05"),
        (
            {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32},
            "num_query_groups=2",
        ),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "rotary_base=300000"),
        ({"model_type": "qwen3"}, r"has no tensor .*q_layernorm.weight"),
        ({"tie_word_embeddings": True}, r"has a tensor output_layer.weight that config.json"),
    ):
        base = tmp_path / "other"
        write_config(base, **(CASES["llama"] | change))
        with pytest.raises(CheckpointError, match=message):
            opened(saved, base=base)


def test_a_folder_that_is_not_whole_is_named(tmp_path: Path, saved: Path) -> None:
    base = tmp_path / "hf"
    with pytest.raises(CheckpointError, match="does not say which model it is of"):
        opened(saved, base=None)
    (piece, *_) = sorted(saved.glob("*.distcp"))
    whole = piece.read_bytes()
    piece.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"{piece.name} ends after .* which holds"):
        opened(saved, base=base)
    piece.unlink()
    with pytest.raises(CheckpointError, match=rf"{piece.name} is missing, which holds"):
        opened(saved, base=base)


def test_states_of_an_optimizer_alone_are_no_model(tmp_path: Path, one_rank: None) -> None:
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    write_config(tmp_path / "hf", **CASES["llama"])
    key = "optimizer.state.exp_avg.decoder.final_layernorm.weight"
    (tmp_path / "run").mkdir()
    state = {key: ShardedTensor.from_rank_offsets(key, torch.ones(48))}
    dist_checkpointing.save(state, str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="states of an optimizer and no weights"):
        opened(tmp_path / "run", base=tmp_path / "hf")
