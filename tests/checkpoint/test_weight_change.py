# SPDX-License-Identifier: Apache-2.0
"""How far weights have moved, against NumPy on what torch itself reads of the same checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from megacpt.checkpoint import folders
from megacpt.checkpoint.weight_change import MASTER, WeightChange, weight_changes
from megacpt.errors import CheckpointError
from megacpt.monitor.checkpoints_text import WEIGHTS_HEADER, weight_line
from tests.checkpoint.small import claim, manifest_of

pytestmark = pytest.mark.mcore
Tensors = dict[str, torch.Tensor]
WHOLE, HALVES = 1, 2


def write(run_dir: Path, *, step: int, tensors: Tensors, pieces: int) -> Path:
    """As a run of so many tensor-parallel ranks would, cut along the first dimension."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    from megacpt.checkpoint.writer.saver import save_now

    root = run_dir / "checkpoints"
    start = claim(root, from_step=0)
    partial = folders.partial_folder(root, step=step, start=start)
    partial.mkdir(parents=True)
    state = {
        f"{name}/{n}": ShardedTensor.from_rank_offsets(name, piece, (0, n, pieces))
        for name, tensor in tensors.items()
        for n, piece in enumerate(tensor.chunk(pieces))
    }
    save_now(partial, state=state | {"iteration": step})
    manifest = manifest_of(partial, step=step, start=start)
    return folders.publish(root, partial=partial, manifest=manifest, start=start)


def read(folder: Path, *, like: Tensors) -> dict[str, np.ndarray]:
    found = {name: torch.empty_like(tensor) for name, tensor in like.items()}
    dcp.load(found, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return {name: tensor.double().numpy() for name, tensor in found.items()}


def twin(name: str, before: np.ndarray, after: np.ndarray) -> WeightChange:
    change = after - before
    return WeightChange(
        name=name,
        rms=float(np.sqrt(np.mean(before**2))),
        relative=float(np.linalg.norm(change) / np.linalg.norm(before)),
        largest=float(np.abs(change).max()),
    )


def near(change: WeightChange) -> object:
    numbers = (change.rms, change.relative, change.largest)
    # Changes are taken in fp32, their sums in fp64.
    return (change.name, *(pytest.approx(number, rel=1e-6) for number in numbers))


def flat(change: WeightChange) -> tuple[object, ...]:
    return (change.name, change.rms, change.relative, change.largest)


def weights(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        "b.weight": torch.randn(6, 40, generator=generator),
        "a.weight": torch.randn(4, 3, 50, generator=generator),
    }


def moved(tensors: Tensors) -> Tensors:
    return {name: tensor + 1e-3 * torch.sign(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("pieces", [(WHOLE, WHOLE), (HALVES, HALVES), (WHOLE, HALVES)])
def test_it_is_what_numpy_finds(tmp_path: Path, one_rank: None, pieces: tuple[int, int]) -> None:
    before = weights(0)
    first = write(tmp_path, step=1, tensors=before, pieces=pieces[0])
    second = write(tmp_path, step=2, tensors=moved(before), pieces=pieces[1])
    index = dcp.FileSystemReader(second).read_metadata().state_dict_metadata["b.weight"]
    assert len(index.chunks) == pieces[1]
    a, b = read(first, like=before), read(second, like=before)
    expected = [near(twin(name, a[name], b[name])) for name in sorted(before)]
    assert [flat(change) for change in weight_changes(first, second=second)] == expected


def test_nothing_moves_between_a_checkpoint_and_itself(tmp_path: Path, one_rank: None) -> None:
    folder = write(tmp_path, step=1, tensors=weights(0), pieces=HALVES)
    assert all(c.relative == c.largest == 0 for c in weight_changes(folder, second=folder))


def test_masters_are_compared_where_there_are_some(tmp_path: Path, one_rank: None) -> None:
    """The change is below the rounding of bf16."""
    master = torch.full((4, 8), 1.0)
    states = [
        {"w": m.bfloat16(), MASTER + "w": m, "optimizer.state.exp_avg.w": m}
        for m in (master, master + 1e-4)
    ]
    first, second = (
        write(tmp_path, step=n, tensors=state, pieces=HALVES) for n, state in enumerate(states, 1)
    )
    (change,) = weight_changes(first, second=second)
    assert change.name == "w"
    assert change.relative == pytest.approx(1e-4, rel=1e-3)


def test_rows_that_fill_up_a_vocabulary_are_left_out(tmp_path: Path, one_rank: None) -> None:
    whole = torch.randn(10, 8)
    padded = torch.cat([whole, torch.full((2, 8), 1e9)])
    first = write(tmp_path, step=1, tensors={"w": whole}, pieces=HALVES)
    second = write(tmp_path, step=2, tensors={"w": padded}, pieces=HALVES)
    (change,) = weight_changes(first, second=second)
    assert change.largest == 0


def test_other_weights_are_refused(tmp_path: Path, one_rank: None) -> None:
    first = write(tmp_path, step=1, tensors=weights(0), pieces=WHOLE)
    second = write(tmp_path, step=2, tensors={"b.weight": torch.ones(6, 40)}, pieces=WHOLE)
    with pytest.raises(CheckpointError, match=r"hold other weights: a\.weight is in one of them"):
        list(weight_changes(first, second=second))


def test_a_damaged_index_is_named(tmp_path: Path, one_rank: None) -> None:
    folder = write(tmp_path, step=1, tensors=weights(0), pieces=WHOLE)
    with (folder / ".metadata").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match=r"\.metadata has \d+ bytes but was written with"):
        list(weight_changes(folder, second=folder))


def test_a_file_that_is_cut_short_is_named(tmp_path: Path, one_rank: None) -> None:
    folder = write(tmp_path, step=1, tensors=weights(0), pieces=WHOLE)
    with (folder / "__0_0.distcp").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp has 100 bytes but was written with"):
        list(weight_changes(folder, second=folder))


def test_a_line_each_in_80_columns() -> None:
    name = "decoder.layers.self_attention.linear_qkv.layer_norm_weight"
    line = weight_line(WeightChange(name=name, rms=0.998, relative=0.00123, largest=1.5e-7))
    assert (
        line == "layers.self_attention.linear_qkv.layer_norm_weight    0.998    0.123 %   1.5e-07"
    )
    longest = WeightChange(name="w" * 90, rms=1.234e-5, relative=1.234e-5, largest=1.2e-10)
    assert len(weight_line(longest)) == len(WEIGHTS_HEADER) == 80
