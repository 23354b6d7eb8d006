# SPDX-License-Identifier: Apache-2.0
"""On a rank: take cases in layouts, forward and backward.

Models are in WORK/models/CASE, in bf16 in WORK/bf16/CASE. What is found goes to
WORK/LAYOUT-CASE-RANK.pt; the test process compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacpt.config.sections import DeviceKind, Dtype, PrecisionConfig, RunConfig
from megacpt.samples.batch import Batch
from tests.family_cases import LAYOUTS, VOCAB_SIZE, Case, Layout, cases
from tests.model.on_one_rank import exported
from tests.rank import rank_on_cpu

TOKENS_BS = torch.randint(0, VOCAB_SIZE, (2, 96), generator=torch.Generator().manual_seed(7))
BOUNDS = ([0, 41, 96], [0, 1, 60, 96])
"""Of the documents, where samples have some."""
Place = tuple[int | None, int, tuple[int, ...]]
"""Of a rank's piece of a tensor: dimension that ranks cut, number of the piece, shape."""
Slices = tuple[dict[str, Place], torch.Tensor]
"""Places by name, and the values of all of them in a row."""


def write_outputs(work: Path, names: Mapping[str, list[str]]) -> None:
    """``names``: by layout, of the cases that are run on it."""
    with rank_on_cpu(timeout_minutes=10):
        from megatron.core import parallel_state

        from megacpt.device.groups import initialise_parallel

        every = cases()
        for layout, chosen in names.items():
            initialise_parallel(LAYOUTS[layout].config, seed=1)
            for case in chosen:
                write_case(work, case=case, layout=layout, of=every[case])
            parallel_state.destroy_model_parallel()


def write_case(work: Path, *, case: str, layout: str, of: Case) -> None:
    from megacpt.families import read_architecture

    folder = work / "models" / case
    architecture = read_architecture(folder).balanced_by(0.0)
    try:
        found = outputs(folder, layout=LAYOUTS[layout], architecture=architecture)
        if layout == "single":
            found |= round_trips(work, case=case, architecture=architecture)
            found["ablations"] = ablations(folder, case=of)
    except Exception as error:
        error.add_note(f"{case} in {layout}: {of.changes}")
        raise
    torch.save(found, work / f"{layout}-{case}-{torch.distributed.get_rank()}.pt")


def outputs(folder: Path, *, layout: Layout, architecture: Any) -> dict[str, Any]:
    """Logits and losses where this rank has them, its part of random weights and of gradients."""
    from megacpt.model.forward import run_logits, run_losses, run_microbatches
    from megacpt.model.weights import initialise_randomly, load_hf
    from megacpt.train.state import wrap_for_training

    chunks = build(architecture, layout=layout, dtype=Dtype.fp32)
    random = None
    if not layout.packed:
        initialise_randomly(chunks, architecture=architecture, seed=5)
        random = slices(chunks, architecture=architecture, of="weights")
    load_hf(chunks, folder=folder, architecture=architecture)
    batch = microbatch(packed=layout.packed)
    with torch.no_grad():
        logits_BSV = gathered(run_logits(chunks, batch=batch))
        losses_BS = run_losses(chunks, batch=batch)
    config = RunConfig(parallel=layout.config, precision=PrecisionConfig(dtype=Dtype.fp32))
    state = wrap_for_training(
        chunks,
        parallel=config.parallel,
        precision=config.precision,
        optim=config.optim,
        device=torch.device("cpu"),
    )
    run_microbatches(
        state.chunks,
        microbatches=[batch] * (layout.config.pp if layout.config.vpp > 1 else 1),
        num_sources=1,
        forward_only=False,
    )
    gradients = slices(state.chunks, architecture=architecture, of="gradients")
    return {"logits": logits_BSV, "losses": losses_BS, "random": random, "gradients": gradients}


def gathered(logits_BSV: torch.Tensor | None) -> torch.Tensor | None:
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    return None if logits_BSV is None else gather_from_tensor_model_parallel_region(logits_BSV)


def build(architecture: Any, *, layout: Layout, dtype: Dtype) -> list[Any]:
    from megacpt.model.build import build_model

    return build_model(
        architecture,
        parallel=layout.config,
        precision=PrecisionConfig(dtype=dtype),
        kind=DeviceKind.cpu,
        sequence_length=TOKENS_BS.shape[1],
    )


def microbatch(*, packed: bool) -> Any:
    """Every label is the token itself: as good as any for a comparison."""
    from megacpt.model.microbatch import host_microbatch

    length = TOKENS_BS.shape[1]
    bounds = BOUNDS if packed else ([0, length], [0, length])
    positions = [np.concatenate([np.arange(n) for n in np.diff(row)]) for row in bounds]
    batch = Batch(
        tokens_BS=TOKENS_BS.numpy(),
        labels_BS=TOKENS_BS.numpy(),
        loss_mask_BS=np.ones(TOKENS_BS.shape, dtype=np.float32),
        positions_BS=np.stack(positions),
        source_ids_B=np.zeros(len(TOKENS_BS), dtype=np.int64),
        cu_seqlens=tuple(np.array(row, dtype=np.int32) for row in bounds),
    )
    return host_microbatch(batch, document_mask=packed, device=torch.device("cpu"))


def slices(chunks: list[Any], *, architecture: Any, of: str) -> Slices:
    """What each tensor of a folder, or its gradient, is on this rank."""
    from megacpt.model.placement import placed_params

    places: dict[str, Place] = {}
    values: list[torch.Tensor] = []
    for placed in placed_params(chunks, architecture=architecture):
        cut, row = placed.cut, placed.row
        if of == "gradients" and not placed.tensor.requires_grad:
            continue
        whole = placed.tensor.main_grad if of == "gradients" else placed.tensor.detach()
        views = row.views(whole, architecture=architecture, tp=cut.size)
        for source, view in zip(row.sources, views, strict=True):
            piece = view.flatten(0, 1)
            places[placed.hf_name(source)] = row.tp_dim, cut.rank, tuple(piece.shape)
            values.append(piece.reshape(-1))
    # One tensor, because to write and to read many costs more than all that makes them.
    return places, torch.cat(values)


def round_trips(work: Path, *, case: str, architecture: Any) -> dict[str, Any]:
    """Imported and exported again, in either type."""
    from megacpt.model.weights import load_hf

    found = {}
    for dtype, folder in ((Dtype.fp32, "models"), (Dtype.bf16, "bf16")):
        chunks = build(architecture, layout=LAYOUTS["single"], dtype=dtype)
        load_hf(chunks, folder=work / folder / case, architecture=architecture)
        source = work / folder / case
        found[folder] = exported(chunks, architecture=architecture, folder=source)
    return found


def ablations(folder: Path, *, case: Case) -> dict[str, torch.Tensor]:
    """Logits of the same weights where something of the model is left out."""
    from megacpt.families import FAMILIES
    from megacpt.families.hf_config import HfConfig
    from megacpt.model.forward import run_logits
    from megacpt.model.weights import load_hf

    config = HfConfig.read(folder)
    changes: dict[str, Mapping[str, Any]] = {**case.without, **{what: {} for what in case.spoilt}}
    found = {}
    for what, changed in changes.items():
        other = replace(config, values={**config.values, **changed})
        architecture = FAMILIES[str(other.values["model_type"])].read(other)
        chunks = build(architecture, layout=LAYOUTS["single"], dtype=Dtype.fp32)
        load_hf(chunks, folder=folder, architecture=architecture)
        if what in case.spoilt:
            case.spoilt[what](chunks[0])
        with torch.no_grad():
            logits_BSV = run_logits(chunks, batch=microbatch(packed=False))
        assert logits_BSV is not None
        found[what] = logits_BSV
    return found


def tokens_of_documents() -> list[torch.Tensor]:
    """In the order in which they lie in the samples."""
    return [
        TOKENS_BS[row, start:stop]
        for row, bounds in enumerate(BOUNDS)
        for start, stop in pairwise(bounds)
    ]
