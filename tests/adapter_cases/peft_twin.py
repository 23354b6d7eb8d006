# SPDX-License-Identifier: Apache-2.0
"""Adapters as peft itself has them on transformers' model: LoRA, rsLoRA, DoRA, PiSSA, LoRA+, and
whole modules beside them.

Keys are those of ``adapter_model.safetensors``, of values, gradients and updates alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.adapter_cases.training import (
    AdamW,
    GlobalBatch,
    Multipliers,
    Trained,
    copied,
    load_base,
    multipliers_of,
    train,
)

Prepare = Callable[[Any], None]
"""Changes transformers' model before peft sees it (``experts.unstack``)."""


def peft_twin(
    folder: Path,
    *,
    config: Any,
    batches: Sequence[GlobalBatch],
    optim: AdamW,
    start: Mapping[str, torch.Tensor] | None = None,
    attention: str = "sdpa",
    prepare: Prepare | None = None,
    frozen_rows: int = 0,
) -> Trained:
    """Train as many steps as there are batches, on the model of a Hugging Face folder.

    ``config`` is peft's LoraConfig. ``start`` has every tensor that is trained
    (``random_start``); None: as peft draws it, B of zeros. PiSSA's base is what peft makes of its
    own start, from which another one may differ by signs alone. ``frozen_rows``: so many of the
    first rows of whole tables take no gradient.
    """
    model = peft_model(folder, config=config, attention=attention, prepare=prepare)
    if start is not None:
        set_tensors(model, tensors=start)
    if frozen_rows:
        for key, parameter in parameters_by_key(model).items():
            if ".lora_" not in key:
                parameter.register_hook(partial(_without_rows, rows=frozen_rows))
    return train(
        model,
        parameters=parameters_by_key(model),
        batches=batches,
        optim=optim,
        named=lambda: saved_tensors(model),
        multipliers=_multipliers(model, optim=optim),
    )


def _without_rows(gradient: torch.Tensor, *, rows: int) -> torch.Tensor:
    return torch.cat([torch.zeros_like(gradient[:rows]), gradient[rows:]])


def random_start(
    folder: Path, *, config: Any, prepare: Prepare | None = None, seed: int = 3
) -> dict[str, torch.Tensor]:
    """As peft makes them, magnitudes of DoRA too, but no B is zero: its start then proves
    something of A. PiSSA's stay as they are."""
    model = peft_model(folder, config=config, prepare=prepare, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = copied(saved_tensors(model))
    for key, tensor in tensors.items():
        if ".lora_B." in key and not tensor.any():
            tensor.normal_(0.0, 0.1, generator=generator)
    return tensors


def peft_model(
    folder: Path,
    *,
    config: Any,
    attention: str = "sdpa",
    prepare: Prepare | None = None,
    seed: int = 3,
) -> Any:
    from peft import get_peft_model

    base = load_base(folder, attention=attention)
    if prepare is not None:
        prepare(base)
    torch.manual_seed(seed)
    # A copy, because peft writes into the configuration that it is given.
    return get_peft_model(base, deepcopy(config)).train()


def saved_tensors(model: Any) -> dict[str, torch.Tensor]:
    """What peft would write, not yet copied."""
    from peft import get_peft_model_state_dict

    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    return tensors


def set_tensors(model: Any, *, tensors: Mapping[str, torch.Tensor]) -> None:
    """All of them, and no others; peft alone would not mind."""
    from peft import set_peft_model_state_dict

    assert tensors.keys() == saved_tensors(model).keys()
    result = set_peft_model_state_dict(model, dict(tensors))
    assert not result.unexpected_keys
    found = saved_tensors(model)
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


def parameters_by_key(model: Any) -> dict[str, torch.nn.Parameter]:
    """What is trained, by the key it is saved under: peft saves the memory of the parameter.

    Of a tied pair, the first key alone.
    """
    keys = {tensor.data_ptr(): key for key, tensor in reversed(saved_tensors(model).items())}
    trained = [p for p in model.parameters() if p.requires_grad]
    parameters = {keys[parameter.data_ptr()]: parameter for parameter in trained}
    assert len(parameters) == len(trained)
    return parameters


def loraplus_multipliers(model: Any, *, b_lr_multiplier: float) -> dict[int, Multipliers]:
    """By id of the parameter, from peft's own optimizer of LoRA+.

    Besides B, a magnitude of DoRA has B's rate there, because it is a vector; whole embeddings and
    heads have A's.
    """
    from peft.optimizers import create_loraplus_optimizer

    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=1.0,
        loraplus_lr_ratio=b_lr_multiplier,
        loraplus_weight_decay=1.0,
    )
    return {
        id(parameter): Multipliers(lr=group["lr"], decay=group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _multipliers(model: Any, *, optim: AdamW) -> Callable[[str], Multipliers]:
    by_key = parameters_by_key(model)
    ratio = optim.b_lr_multiplier
    plus = {} if ratio == 1.0 else loraplus_multipliers(model, b_lr_multiplier=ratio)

    def of(key: str) -> Multipliers:
        stated = multipliers_of(key, optim=optim)
        of_plus = plus.get(id(by_key[key]), Multipliers())
        return Multipliers(lr=stated.lr * of_plus.lr, decay=stated.decay * of_plus.decay)

    return of
