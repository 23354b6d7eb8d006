# SPDX-License-Identifier: Apache-2.0
"""On ranks: a packed model beside a plain one that has the packed values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megacpt.config.sections import BaseWeights, DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from tests.llama_cases import TOKENS_BS
from tests.rank import rank_on_cpu


def compare(work: Path, layouts: dict[str, dict[str, Any]]) -> None:
    """Each folder of WORK that is named in ``layouts``, in its layout: WORK/CASE as it is and
    packed, and WORK/CASE-nf4 and WORK/CASE-int8 as they are."""
    with rank_on_cpu(timeout_minutes=10):
        from megatron.core import parallel_state

        from megacpt.device.groups import initialise_parallel

        for name, layout in layouts.items():
            parallel = ParallelConfig(**layout["parallel"])
            initialise_parallel(parallel, seed=1)
            for packing in BaseWeights:
                same(work / layout["case"], packing=packing, parallel=parallel, layout=name)
            parallel_state.destroy_model_parallel()


def same(folder: Path, *, packing: BaseWeights, parallel: ParallelConfig, layout: str) -> None:
    """Every weight has the bits of the plain model that was packed as a whole, and so has what
    comes of it: loss and gradient."""
    other = folder.with_name(f"{folder.name}-{packing.name}")
    mine = built(folder, packing=packing, parallel=parallel)
    theirs = built(other, packing=None, parallel=parallel)
    unlike = built(folder, packing=None, parallel=parallel)
    packed = [name for name, weight in weights(mine).items() if hasattr(weight, "dense")]
    assert packed, layout
    for name in packed:
        found = weights(mine)[name].dense(torch.float32)
        assert torch.equal(found, weights(theirs)[name]), f"{layout}: {name}"
        assert not torch.equal(found, weights(unlike)[name]), f"{layout}: {name}"
    found_loss, *found_rest = passed(mine)
    loss, *rest = passed(theirs)
    torch.testing.assert_close(found_loss, loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found_rest, rest, atol=1e-6, rtol=1e-4)
    assert (passed(unlike)[0] - loss).abs().max() > 1e-4


def built(folder: Path, *, packing: BaseWeights | None, parallel: ParallelConfig) -> Any:
    from megacpt.families import read_architecture
    from megacpt.model.weights import load_hf

    chunk = unfilled(folder, packing=packing, parallel=parallel, dtype=Dtype.fp32)
    load_hf([chunk], folder=folder, architecture=read_architecture(folder))
    return chunk


def unfilled(
    folder: Path, *, packing: BaseWeights | None, parallel: ParallelConfig, dtype: Dtype
) -> Any:
    """With a frozen decoder, before its weights are read."""
    from megacpt.families import read_architecture
    from megacpt.model.build import build_model
    from megacpt.model.frozen.linear import pack_linears

    (chunk,) = build_model(
        read_architecture(folder).balanced_by(0.0),
        parallel=parallel,
        precision=PrecisionConfig(dtype=dtype),
        kind=DeviceKind.cpu,
        sequence_length=TOKENS_BS.shape[1],
    )
    chunk.decoder.requires_grad_(False)
    if packing is not None:
        pack_linears(chunk, packing=packing)
    return chunk


def measure(work: Path, packing: str) -> None:
    """Write WORK/PACKING.txt: by how many bytes the process grew at most while WORK/model was
    loaded in bf16, and the bytes of all that the chunk holds then."""
    with rank_on_cpu(timeout_minutes=10):
        from megacpt.device.groups import initialise_parallel
        from megacpt.families import read_architecture
        from megacpt.model.frozen.packed import PACKED
        from megacpt.model.weights import load_hf

        parallel, kind, folder = ParallelConfig(), BaseWeights(packing), work / "model"
        initialise_parallel(parallel, seed=1)
        # Once before, so that imports and code are not counted.
        PACKED[kind](torch.Size((64, 64))).fill(torch.ones(64, 64))
        chunk = unfilled(folder, packing=kind, parallel=parallel, dtype=Dtype.bf16)
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        load_hf([chunk], folder=folder, architecture=read_architecture(folder))
        held = sum(t.nbytes for t in (*chunk.parameters(), *chunk.buffers()))
        (work / f"{packing}.txt").write_text(f"{memory('VmHWM') - before} {held}")


def memory(key: str) -> int:
    """Bytes of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def weights(chunk: Any) -> dict[str, Any]:
    """Of the linear layers, by the layer's name."""
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

    return {
        name: layer.weight
        for name, layer in chunk.decoder.named_modules()
        if isinstance(layer, ColumnParallelLinear | RowParallelLinear)
    }


def passed(chunk: Any) -> list[torch.Tensor]:
    """Losses of tokens, and the gradient of the embedding, which all layers have passed on."""
    chunk.zero_grad()
    positions = torch.arange(TOKENS_BS.shape[1]).expand_as(TOKENS_BS)
    losses_BS = chunk(TOKENS_BS, positions, None, labels=TOKENS_BS)
    losses_BS.mean().backward()
    table = chunk.embedding.word_embeddings.weight
    return [losses_BS.detach(), table.grad.clone()]
