# SPDX-License-Identifier: Apache-2.0
"""What an adapter asks of the model, the layout and the optimizer, and advice on its size and rate.

Rates are those of full training times ten or so: a factor that begins with zeros learns slowly (Hu
et al., https://arxiv.org/abs/2106.09685, appendix D).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from megacpt.config.paths import RunFolder
from megacpt.config.schema import spelled
from megacpt.config.sections import AdapterConfig, AdapterMethod, Optimizer
from megacpt.errors import Violation
from megacpt.families.adapter import Linear, adapted_linears, adapter_rows
from megacpt.families.architecture import Adapter, Architecture
from megacpt.families.peft_settings import PEFT_SETTINGS, stated_method, stated_settings
from megacpt.plan.layers_per_stage import virtual_stages
from megacpt.plan.packed import packed_base
from megacpt.plan.rules import Facts, Rule

USUAL_SCALES = (0.25, 4.0)


def advice(adapter: Adapter | None) -> Iterator[str]:
    """Sentences for the user; nothing here stops a run."""
    if adapter is None:
        return
    lowest, highest = USUAL_SCALES
    if not lowest <= adapter.scale <= highest:
        divisor = "sqrt(rank)" if adapter.rank_stabilised else "rank"
        yield (
            f"adapter.alpha={adapter.alpha:g} with rank {adapter.rank} multiplies the update by "
            f"{adapter.scale:.3g} (alpha / {divisor}); {lowest:g} to {highest:g} is usual."
        )
    if adapter.dropout and adapter.has_core:
        yield (
            f"adapter.dropout={adapter.dropout:g} with method {adapter.method}, which trains "
            f"{adapter.rank**2:,} values a weight: so few seldom need it."
        )


def _settings(facts: Facts) -> Iterator[Violation]:
    """What would have nothing to act on."""
    settings, optim = facts.config.adapter, facts.config.optim
    if settings is None:
        return
    if settings.method is AdapterMethod.lora_xs and settings.b_lr_multiplier != 1.0:
        yield Violation(
            path="adapter.b_lr_multiplier",
            value=settings.b_lr_multiplier,
            rule="is of factors that begin with zero, which adapter.method=lora_xs does not train",
            remedy="use 1, or adapter.method=lora",
        )
    for table, is_trained in (
        ("embedding", settings.train_embedding),
        ("head", settings.train_head),
    ):
        multiplier = getattr(optim, f"{table}_lr_multiplier")
        if multiplier != 1.0 and not is_trained:
            yield Violation(
                path=f"optim.{table}_lr_multiplier",
                value=multiplier,
                rule="is of weights that are not trained beside the adapter",
                remedy=f"use 1, or adapter.train_{table}=true",
            )


def _new_tokens(facts: Facts) -> Iterator[Violation]:
    """Rows of tables that are trained."""
    settings, architecture = facts.config.adapter, facts.architecture
    if settings is None or settings.new_tokens_from is None:
        return
    if not (settings.train_embedding or settings.train_head):
        yield Violation(
            path="adapter.new_tokens_from",
            value=settings.new_tokens_from,
            rule="is of the rows of tables that are not trained",
            remedy="use adapter.train_embedding=true, or adapter.new_tokens_from=null",
        )
    elif architecture is not None and settings.new_tokens_from >= architecture.vocab_size:
        yield Violation(
            path="adapter.new_tokens_from",
            value=settings.new_tokens_from,
            rule=f"is behind the model's last token, {architecture.vocab_size - 1}",
            remedy="name the first id of megacpt vocabulary --add",
        )


def _others(facts: Facts) -> Iterator[Violation]:
    """Settings of all weights' training that adapters are not made for."""
    config = facts.config
    if config.adapter is None:
        return
    muon = config.optim.optimizer is Optimizer.muon
    for path, value, is_set, rule, instead in (
        ("optim.optimizer", "muon", muon, "orthogonalises updates of whole weights", "adamw"),
        ("parallel.sharded_weights", "true", config.parallel.sharded_weights, _CUTS, "false"),
        (
            "precision.fp8_param_gather",
            "true",
            config.precision.fp8_param_gather,
            "keeps in fp8 what an update has changed",
            "false",
        ),
    ):
        if is_set:
            yield Violation(
                path=path,
                value=value,
                rule=f"{rule}, but with an adapter the model's weights stay as they are",
                remedy=f"use {path}={instead}, or adapter=none",
            )


_CUTS = "cuts gradients and state of all weights"


def _head(facts: Facts) -> Iterator[Violation]:
    settings, architecture = facts.config.adapter, facts.architecture
    if settings is None or architecture is None or not settings.train_head:
        return
    if architecture.tied_embeddings:
        yield Violation(
            path="adapter.train_head",
            value="true",
            rule="has no tensor of its own: the model's head is its embedding",
            remedy="use adapter.train_embedding=true, which trains both",
        )


def _rank(facts: Facts) -> Iterator[Violation]:
    """No matrix has a larger rank than its smaller side."""
    architecture = facts.architecture
    if architecture is None or architecture.adapter is None:
        return
    rank = architecture.adapter.rank
    sides = {
        name: side
        for linear in adapted_linears(architecture)
        for name, side in _smaller_sides(linear, architecture=architecture)
    }
    if sides and rank > min(sides.values()):
        name = min(sides, key=lambda n: sides[n])
        yield Violation(
            path="adapter.rank",
            value=rank,
            rule=f"is above the smaller side of {name.rpartition('.')[2]}, {sides[name]}",
            remedy=f"use {sides[name]} or less, or leave it out of adapter.targets",
        )


def _smaller_sides(linear: Linear, *, architecture: Architecture) -> Iterator[tuple[str, int]]:
    """Of each Hugging Face module; some hold several tensors one below the other."""
    shapes = [source.shape(architecture) for source in linear.sources]
    for number, name in enumerate(linear.modules):
        rows = sum(s[0] for s, m in zip(shapes, linear.module_of, strict=True) if m == number)
        yield name, min(rows, shapes[0][1])


def _stages(facts: Facts) -> Iterator[Violation]:
    """A stage that trains nothing has no gradient to send on."""
    settings, architecture = facts.config.adapter, facts.architecture
    if settings is None or architecture is None or architecture.adapter is None:
        return
    stages = virtual_stages(architecture.num_layers, parallel=facts.config.parallel)
    trained = _trained_layers(architecture)
    idle = [stage for stage in stages if not trained.intersection(stage)]
    if idle:
        stage = idle[0]
        yield Violation(
            path="adapter.layers",
            value=spelled(settings.layers),
            rule=f"with adapter.targets={settings.targets} trains nothing in layers {stage[0]} to "
            f"{stage[-1]}, which are " + ("a pipeline stage" if len(stages) > 1 else "all"),
            remedy="name a layer among them and targets that it has"
            + (", or use fewer stages" if len(stages) > 1 else ""),
        )


def _trained_layers(architecture: Architecture) -> set[int]:
    """The first and the last count where the table beside them is trained."""
    adapter, last = architecture.adapter, architecture.num_layers - 1
    found = {n for row in adapter_rows(architecture) for n in row.layers(architecture)}
    if adapter is not None and found:
        tied = adapter.embedding and architecture.tied_embeddings
        found |= {0} if adapter.embedding else set()
        found |= {last} if adapter.head or tied else set()
    return found


def load_from_violations(settings: AdapterConfig | None) -> Iterator[Violation]:
    """A PEFT folder of other settings than the run's, which is to begin with it; what it holds is
    looked at when it is read. ``ModelError``: it is none of a LoRA."""
    if settings is None or settings.load_from is None:
        return
    folder = Path(settings.load_from)
    if not (folder / PEFT_SETTINGS).is_file():
        yield _no_folder_of_peft(folder, value=settings.load_from)
        return
    stated = stated_method(stated_settings(folder), folder=folder)
    own = {**asdict(settings), "method": settings.method.name}
    for name, value in stated.items():
        if own[name] != value:
            yield Violation(
                path=f"adapter.{name}",
                value=spelled(own[name]),
                rule=f"is {spelled(value)} in adapter.load_from={settings.load_from}",
                remedy=f"use adapter.{name}={spelled(value)}",
            )


def _no_folder_of_peft(folder: Path, *, value: str) -> Violation:
    path, exported = "adapter.load_from", shlex.quote(str(folder / "adapter"))
    remedy = f"name the folder of {PEFT_SETTINGS}, as PEFT and megacpt export write it"
    if RunFolder(folder).run_yaml.is_file():
        rule = "is a run, not a folder of PEFT's"
        remedy = f"use {path}={exported}, which megacpt export writes, or checkpoint.load_from"
    elif folder.is_dir():
        rule = f"has no {PEFT_SETTINGS}"
    else:
        rule = "is no folder"
    return Violation(path=path, value=value, rule=rule, remedy=remedy)


def _base(facts: Facts) -> Iterator[Violation]:
    settings = facts.config.adapter
    if settings is not None and settings.base is not None:
        yield from packed_base(
            settings.base,
            precision=facts.config.precision,
            parallel=facts.config.parallel,
            device=facts.config.cluster.device,
            architecture=facts.architecture,
            path="adapter.base",
        )


RULES: tuple[Rule, ...] = (_settings, _new_tokens, _others, _base, _head, _rank, _stages)
