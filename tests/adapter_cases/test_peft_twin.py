# SPDX-License-Identifier: Apache-2.0
"""peft beside formulas of the papers, written down by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from tests.adapter_cases.experts import unstack
from tests.adapter_cases.models import ATTENTION, TARGETS, models
from tests.adapter_cases.peft_twin import peft_twin, random_start
from tests.adapter_cases.training import (
    AdamW,
    GlobalBatch,
    Multipliers,
    Trained,
    drawn_batches,
    load_base,
    mean_loss,
)
from tests.family_cases import VOCAB_SIZE

RANK, ALPHA = 4, 6.0
BATCHES = drawn_batches(3, vocab_size=VOCAB_SIZE)
OPTIM = AdamW(lr_by_step=[1e-2, 5e-3, 8e-3], weight_decay=0.1, clip_grad_norm=0.5)
PREFIX = "base_model.model."
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}


def config(**changes: Any) -> Any:
    from peft import LoraConfig

    given = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS), "lora_dropout": 0.0}
    return LoraConfig(**(given | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    models()["llama"].write(folder)
    return folder


@pytest.fixture(scope="module")
def twins(folder: Path) -> dict[str, Trained]:
    found = {}
    for name, changes in METHODS.items():
        of_method = config(**changes)
        start = random_start(folder, config=of_method)
        found[name] = peft_twin(folder, config=of_method, start=start, batches=BATCHES, optim=OPTIM)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """A method as its paper has it, on the weights of a layer as a whole."""

    scaling: float = ALPHA / RANK
    magnitudes: bool = False
    detached: bool = True
    residual: bool = False

    def weight(
        self, base: torch.Tensor, *, tensors: Mapping[str, torch.Tensor], start: Any, of: str
    ) -> torch.Tensor:
        def product(source: Mapping[str, torch.Tensor]) -> torch.Tensor:
            a, b = (source[f"{of}.lora_{factor}.weight"] for factor in "AB")
            return self.scaling * (b @ a)

        if self.residual:
            base = base - product(start)
        changed = base + product(tensors)
        if not self.magnitudes:
            return changed
        norms = changed.norm(dim=1)
        norms = norms.detach() if self.detached else norms
        magnitude = tensors[f"{of}.lora_magnitude_vector"]
        return (magnitude / norms)[:, None] * changed


HAND = {
    "lora": ByHand(),
    "rslora": ByHand(scaling=ALPHA / math.sqrt(RANK)),
    "dora": ByHand(magnitudes=True),
    "pissa": ByHand(residual=True),
}


def losses_and_gradients(
    folder: Path, *, twin: Trained, hand: ByHand, batch: GlobalBatch = BATCHES[0]
) -> tuple[float, dict[str, torch.Tensor]]:
    model = load_base(folder)
    tensors = {key: value.clone().requires_grad_() for key, value in twin.start.items()}
    weights = {}
    for of in {key.rpartition(".lora_")[0] for key in tensors}:
        name = of.removeprefix(PREFIX) + ".weight"
        base = model.get_parameter(name).detach()
        weights[name] = hand.weight(base, tensors=tensors, start=twin.start, of=of)

    def changed(tokens_BS: torch.Tensor, **settings: Any) -> Any:
        return functional_call(model, weights, (tokens_BS,), settings)

    loss = mean_loss(changed, batch=batch)
    loss.backward()
    return float(loss.detach()), {key: t.grad for key, t in tensors.items() if t.grad is not None}


def farthest(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of a tensor relative to its largest value."""
    assert found.keys() == expected.keys()
    return max(
        float((found[key] - tensor).abs().max() / tensor.abs().max())
        for key, tensor in expected.items()
    )


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_are_those_of_the_paper(
    folder: Path, method: str, twins: Mapping[str, Trained]
) -> None:
    twin = twins[method]
    loss, gradients = losses_and_gradients(folder, twin=twin, hand=HAND[method])
    assert twin.losses[0] == pytest.approx(loss, rel=1e-6)
    assert farthest(twin.gradients, gradients) < 1e-4


ABLATIONS = {
    "no alpha": ("lora", replace(HAND["lora"], scaling=1.0)),
    "rank for its root": ("rslora", HAND["lora"]),
    "gradients through norms": ("dora", replace(HAND["dora"], detached=False)),
    "whole base": ("pissa", HAND["lora"]),
}


@pytest.mark.parametrize("what", ABLATIONS)
def test_another_formula_has_other_gradients(
    folder: Path, twins: Mapping[str, Trained], what: str
) -> None:
    method, hand = ABLATIONS[what]
    _, gradients = losses_and_gradients(folder, twin=twins[method], hand=hand)
    assert farthest(twins[method].gradients, gradients) > 1e-2


def test_masked_tokens_and_dimensions_of_batches_count_for_nothing(
    folder: Path, twins: Mapping[str, Trained]
) -> None:
    """Halves that are put together are the batch, and a label under the mask is not read."""
    whole = BATCHES[0]
    other = torch.where(whole.loss_mask_BS > 0, whole.labels_BS, 1)
    halves = [
        GlobalBatch(
            tokens_BS=whole.tokens_BS[part],
            labels_BS=other[part],
            loss_mask_BS=whole.loss_mask_BS[part],
        )
        for part in (slice(0, 1), slice(1, None))
    ]
    twin = twins["lora"]
    loss, _ = losses_and_gradients(
        folder, twin=twin, hand=HAND["lora"], batch=GlobalBatch.of(halves)
    )
    assert twin.losses[0] == pytest.approx(loss, rel=1e-6)
    unmasked = replace(whole, loss_mask_BS=torch.ones_like(whole.loss_mask_BS))
    loss, _ = losses_and_gradients(folder, twin=twin, hand=HAND["lora"], batch=unmasked)
    assert twin.losses[0] != pytest.approx(loss, rel=1e-3)


def adamw_by_hand(twin: Trained, *, optim: AdamW) -> dict[str, torch.Tensor]:
    """After the first step, when both means are the gradient's own but for their corrections."""
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in twin.gradients.values()))
    assert twin.gradient_norms[0] == pytest.approx(norm, rel=1e-5)
    clipped = min(1.0, optim.clip_grad_norm / (norm + 1e-6))
    assert clipped < 1.0
    lr = optim.lr_by_step[0]
    updated = {}
    for key, start in twin.start.items():
        gradient = clipped * twin.gradients[key]
        kept = (1 - lr * optim.weight_decay) * start
        updated[key] = kept - lr * gradient / (gradient.abs() + optim.eps)
    return updated


def one_step(folder: Path, *, optim: AdamW, **changes: Any) -> Trained:
    of_method = config(**changes)
    start = random_start(folder, config=of_method)
    return peft_twin(folder, config=of_method, start=start, batches=BATCHES[:1], optim=optim)


def test_a_step_is_adamw_with_decay_and_clipping(folder: Path) -> None:
    optim = replace(OPTIM, lr_by_step=[1e-2], eps=1e-5)
    twin = one_step(folder, optim=optim)
    assert farthest(twin.tensors, adamw_by_hand(twin, optim=optim)) < 1e-5


def test_rates_differ_by_key_and_loraplus_gives_b_and_magnitudes_another(folder: Path) -> None:
    plain = replace(OPTIM, lr_by_step=[1e-3], weight_decay=0.0)
    of_embedding = {"embed_tokens": Multipliers(lr=0.5)}
    changed = replace(plain, multipliers=of_embedding, b_lr_multiplier=4.0)
    settings = {"use_dora": True, "modules_to_save": ["embed_tokens"]}
    before, after = (one_step(folder, optim=optim, **settings) for optim in (plain, changed))
    ratios = {
        key: float(
            (after.tensors[key] - start).abs().mean() / (before.tensors[key] - start).abs().mean()
        )
        for key, start in before.start.items()
    }
    for key, ratio in ratios.items():
        faster = "lora_B" in key or "magnitude" in key
        expected = 0.5 if "embed_tokens" in key else 4.0 if faster else 1.0
        assert ratio == pytest.approx(expected, rel=1e-2), key
    assert any("embed_tokens" in key for key in ratios)


def test_pissa_begins_with_the_model_as_it_was(folder: Path, twins: Mapping[str, Trained]) -> None:
    base = load_base(folder)
    assert twins["pissa"].losses[0] == pytest.approx(
        float(mean_loss(base, batch=BATCHES[0]).detach()), rel=1e-5
    )


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tied")
    models()["gemma3-tied"].write(folder)
    return folder


BESIDE: dict[str, dict[str, Any]] = {
    "whole": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "rows": {"trainable_token_indices": [2, 3, 5]},
}


def beside_alone(folder: Path, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of a tied embedding beside an adapter that does nothing yet, and the base's own."""
    twin = peft_twin(
        folder, config=config(**changes), batches=BATCHES[:1], optim=AdamW(lr_by_step=[1e-3])
    )
    (key,) = (key for key in twin.gradients if "lora_" not in key)
    assert "embed_tokens" in key
    base = load_base(folder)
    mean_loss(base, batch=BATCHES[0]).backward()
    return twin.gradients[key], base.get_input_embeddings().weight.grad


@pytest.mark.parametrize("what", BESIDE)
def test_tied_embeddings_beside_are_head_too(tied: Path, what: str) -> None:
    found, expected = beside_alone(tied, **BESIDE[what])
    expected = expected if what == "whole" else expected[BESIDE["rows"]["trainable_token_indices"]]
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=atol)


def test_an_embedding_that_is_not_kept_tied_is_none(tied: Path) -> None:
    found, expected = beside_alone(tied, modules_to_save=["embed_tokens"])
    assert float((found - expected).abs().max()) > 0.1 * float(expected.abs().max())


def test_keys_are_those_that_peft_saves(twins: Mapping[str, Trained]) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for method, twin in twins.items():
        assert twin.gradients.keys() == twin.start.keys() == twin.tensors.keys()
        assert twin.start[key].shape[0] == RANK
        factors = 3 if method == "dora" else 2
        assert len(twin.start) == factors * len(TARGETS) * 4


def test_attention_s_kernel_changes_nothing(folder: Path, twins: Mapping[str, Trained]) -> None:
    twin = twins["lora"]
    eager = peft_twin(
        folder,
        config=config(),
        start=twin.start,
        batches=BATCHES,
        optim=OPTIM,
        attention="eager",
    )
    assert eager.losses == pytest.approx(twin.losses, rel=1e-6)


def test_it_trains_experts_by_themselves(tmp_path: Path) -> None:
    models()["qwen3-moe"].write(tmp_path)
    of_method = config(use_dora=True)
    start = random_start(tmp_path, config=of_method, prepare=unstack)
    twin = peft_twin(
        tmp_path, config=of_method, start=start, batches=BATCHES, optim=OPTIM, prepare=unstack
    )
    key = "base_model.model.model.layers.1.mlp.experts.5.gate_proj.lora_A.weight"
    assert twin.start[key].shape[0] == RANK
    assert not torch.equal(twin.start[key], twin.tensors[key])
    assert len(twin.start) == 3 * (4 * len(ATTENTION) + 3 + 3 * 6 * 3)
