# SPDX-License-Identifier: Apache-2.0
"""Every family in every recipe, of real engine layers, in a process of their own.

Without a GPU the kernels cannot run, but models are constructed for real: which layers, which
recipe, which names and keys. WORK_DIR/found.json gets what was built, and WORK_DIR/models holds the
folders. Checkpoints go from the CPU's layers to Transformer Engine's and back through files, in the
recipe that has a state of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megacpt.config.sections import DeviceKind, ParallelConfig, PrecisionConfig, Recipe
from tests.model.te_documents import pretend_a_gpu

RECIPES = [recipe for recipe in Recipe if recipe is not Recipe.none]


def describe_all(work: Path, _: Any) -> None:
    pretend_a_gpu(capability=(10, 0))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    found = {
        f"{family} {recipe.name}": describe(work, family, recipe)
        for family in sorted(folder.name for folder in (work / "models").iterdir())
        for recipe in RECIPES
    }
    (work / "found.json").write_text(json.dumps(found))


def describe(work: Path, family: str, recipe: Recipe) -> dict[str, Any]:
    """What Transformer Engine was told, and that weights pass between it and the CPU's layers."""
    ends = 0 if recipe is Recipe.delayed else 1
    precision = PrecisionConfig(recipe=recipe, bf16_first_layers=ends, bf16_last_layers=ends)
    model = build(work / "models" / family, DeviceKind.gpu, precision)
    plain = build(work / "models" / family, DeviceKind.cpu, PrecisionConfig())
    config = model.config
    return {
        "folder": str(work / "models" / family),
        "recipe": recipe_of(config),
        "quantised": quantised_layers(config),
        "layers": sorted({type(m).__name__ for m in model.decoder.layers[0].modules()}),
        "keys": keys(model),
        "plain_keys": keys(plain),
        "round_trip": recipe is not Recipe.delayed
        or round_trip(work / f"{family}-checkpoints", model=model, plain=plain),
    }


def build(folder: Path, kind: DeviceKind, precision: PrecisionConfig) -> Any:
    """One chunk with random weights, on this machine whatever the kind."""
    from megacpt.families import read_architecture
    from megacpt.model import build as module
    from megacpt.model.weights import initialise_randomly

    made = module.transformer_config

    def on_this_machine(*args: Any, **kwargs: Any) -> Any:
        config = made(*args, **kwargs)
        config.use_cpu_initialization = True
        # Fused, the dispatcher of tokens makes its indices on the GPU at once.
        config.moe_permute_fusion = False
        return config

    architecture = read_architecture(folder)
    module.transformer_config = on_this_machine
    chunks = module.build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=precision,
        kind=kind,
        sequence_length=32,
    )
    module.transformer_config = made
    seed = 3 if kind is DeviceKind.gpu else 4
    initialise_randomly(chunks, architecture=architecture, seed=seed)
    return chunks[0]


def recipe_of(config: Any) -> dict[str, Any]:
    """The object Transformer Engine's autocast would be given."""
    from megatron.core.fp4_utils import get_fp4_recipe
    from megatron.core.fp8_utils import get_fp8_recipe

    recipe = get_fp4_recipe(config) if config.fp4 else get_fp8_recipe(config)
    names = ("amax_history_len", "amax_compute_algo", "margin", "reduce_amax")
    settings = {name: getattr(recipe, name) for name in names if hasattr(recipe, name)}
    kinds = [type(recipe).__name__, *(base.__name__ for base in type(recipe).__mro__[1:2])]
    format_ = getattr(recipe, "fp4_format", recipe.fp8_format)
    return settings | {"kinds": kinds, "format": format_.name}


def quantised_layers(config: Any) -> list[bool]:
    """Of each layer, whether the context it runs in quantises."""
    from contextlib import nullcontext

    from megatron.core.fp4_utils import get_fp4_context
    from megatron.core.fp8_utils import get_fp8_context

    get_context = get_fp4_context if config.fp4 else get_fp8_context
    contexts = [get_context(config, layer) for layer in range(config.num_layers)]
    return [not isinstance(context, nullcontext) for context in contexts]


def keys(model: Any) -> dict[str, Any]:
    """Key of a checkpoint -> global shape and type of a tensor; None of an object."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    found: dict[str, Any] = {}
    for entry in flattened(model):
        is_tensor = isinstance(entry, ShardedTensor)
        shape = [list(entry.global_shape), str(entry.dtype)] if is_tensor else None
        found[entry.key] = shape
    return found


def flattened(model: Any) -> list[Any]:
    from megatron.core import parallel_state
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedBase, apply_factories

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    state = model.sharded_state_dict(metadata={"dp_cp_group": group})
    apply_factories(state)
    return [entry for entry in nested_values(state) if isinstance(entry, ShardedBase)]


def round_trip(folder: Path, *, model: Any, plain: Any) -> bool:
    """The CPU's weights in Transformer Engine's layers, then its weights in the CPU's."""
    weights = {name: tensor.clone() for name, tensor in plain.named_parameters()}
    pass_on(folder / "there", source=plain, target=model)
    for parameter in plain.parameters():
        parameter.data.zero_()
    pass_on(folder / "back", source=model, target=plain)
    return all(torch.equal(tensor, weights[name]) for name, tensor in plain.named_parameters())


def pass_on(folder: Path, *, source: Any, target: Any) -> None:
    from megacpt.checkpoint.state import load_model, model_entries
    from megacpt.checkpoint.writer.saver import save_now

    folder.mkdir(parents=True)
    save_now(folder, state=model_entries([source]))
    load_model(folder, chunks=[target])
