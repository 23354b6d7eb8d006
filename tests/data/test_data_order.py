# SPDX-License-Identifier: Apache-2.0
"""The order: every token once an epoch, the same samples however they are dealt out or resumed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.config.sections import DataConfig, ReplayConfig, SourceConfig
from megacpt.data.batch import Batch
from megacpt.data.blend import source_shares
from megacpt.data.indexed import write_shard
from megacpt.data.order import TrainingData
from megacpt.errors import DataError

in_one_folder = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def open_data(
    folder: Path,
    *,
    tokens: dict[str, int],
    sequence_length: int = 4,
    batch: int = 6,
    seed: int = 1,
    replay: ReplayConfig | None = None,
) -> TrainingData:
    """Sources whose id at place n is n, so that a sample shows where it comes from."""
    for name, count in tokens.items():
        write_shard(folder / name, [np.arange(count)], vocab_size=60_000)
    config = DataConfig(
        sources={name: SourceConfig(prefix=name, weight=1.0 + n) for n, name in enumerate(tokens)},
        replay=replay,
        sequence_length=sequence_length,
        global_batch_size=batch,
    )
    return TrainingData.open(config, seed=seed, shards={name: folder / name for name in tokens})


def whole(data: TrainingData, step: int) -> Batch:
    return data.load(step, positions=range(data.config.global_batch_size))


def targets(data: TrainingData, *, steps: int) -> dict[int, list[int]]:
    """Labels that count, in order, of each source."""
    found: dict[int, list[int]] = {n: [] for n in range(len(data.source_names))}
    for step in range(steps):
        batch = whole(data, step)
        for row, source in enumerate(batch.source_ids_B):
            found[int(source)] += batch.labels_BS[row][batch.loss_mask_BS[row] > 0].tolist()
    return found


@given(tokens=st.integers(2, 90), length=st.integers(1, 20), seed=st.integers(0, 9))
@in_one_folder
def test_every_token_is_a_target_once_an_epoch(
    tmp_path: Path, tokens: int, length: int, seed: int
) -> None:
    """Two whole epochs of one sample a batch; the first token of a shard is never a target."""
    data = open_data(tmp_path, tokens={"a": tokens}, sequence_length=length, batch=1, seed=seed)
    windows = len(data.sources["a"])
    found = targets(data, steps=2 * windows)[0]
    assert len(found) == 2 * (tokens - 1)
    assert sorted(found[: tokens - 1]) == sorted(found[tokens - 1 :]) == list(range(1, tokens))


@given(sizes=st.lists(st.integers(2, 60), min_size=1, max_size=4), steps=st.integers(1, 25))
@in_one_folder
def test_no_window_repeats_before_its_epoch_ends(
    tmp_path: Path, sizes: list[int], steps: int
) -> None:
    data = open_data(tmp_path, tokens={f"s{n}": size for n, size in enumerate(sizes)})
    seen: Counter[tuple[int, int]] = Counter()
    for step in range(steps):
        windows = data.rows(step, positions=range(6))
        seen.update((window.source_id, int(window.starts[0])) for window in windows)
    for number, (name, consumed) in enumerate(data.consumed_samples(steps).items()):
        counts = [count for (source, _), count in seen.items() if source == number]
        epochs, rest = divmod(consumed, len(data.sources[name]))
        assert sum(counts) == consumed
        assert Counter(counts)[epochs + 1] == rest
        assert set(counts) <= {epochs, epochs + 1}


@pytest.mark.parametrize(("dp", "micro"), [(1, 1), (1, 12), (2, 3), (3, 2), (4, 1), (12, 1)])
def test_any_split_over_ranks_is_the_same_batch(tmp_path: Path, dp: int, micro: int) -> None:
    tokens = {"a": 90, "b": 40}
    expected = [whole(open_data(tmp_path, tokens=tokens, batch=12), step) for step in range(5)]
    ranks = [open_data(tmp_path, tokens=tokens, batch=12) for _ in range(dp)]
    for step, batch in enumerate(expected):
        for start in range(0, 12, micro):
            rank = start // micro % dp
            part = ranks[rank].load(step, positions=range(start, start + micro))
            rows = slice(start, start + micro)
            np.testing.assert_array_equal(part.tokens_BS, batch.tokens_BS[rows])
            np.testing.assert_array_equal(part.labels_BS, batch.labels_BS[rows])
            np.testing.assert_array_equal(part.loss_mask_BS, batch.loss_mask_BS[rows])
            np.testing.assert_array_equal(part.source_ids_B, batch.source_ids_B[rows])


@given(start=st.integers(0, 300))
@in_one_folder
def test_a_run_can_be_resumed_anywhere(tmp_path: Path, start: int) -> None:
    """A process that never saw the steps before reads the same, as does one that saw later ones."""
    tokens = {"a": 50, "b": 21, "r": 33}
    replay = ReplayConfig(source="r", share=0.15)
    fresh, used = (open_data(tmp_path, tokens=tokens, replay=replay) for _ in range(2))
    for step in (7, 310, start - 1, start):
        if step >= 0:
            before = whole(used, step)
    np.testing.assert_array_equal(whole(fresh, start).tokens_BS, before.tokens_BS)
    assert fresh.consumed_samples(start) == used.consumed_samples(start)


def test_counts_are_those_of_the_samples(tmp_path: Path) -> None:
    replay = ReplayConfig(source="r", share=0.3)
    data = open_data(tmp_path, tokens={"a": 50, "b": 21, "r": 33}, replay=replay)
    counted: Counter[str] = Counter()
    for step in range(40):
        assert data.consumed_samples(step) == {name: counted[name] for name in data.source_names}
        counted.update(data.source_names[n] for n in whole(data, step).source_ids_B)
    shares = source_shares(data.config)
    for name, count in counted.items():
        assert abs(count - shares[name] * 6 * 40) < 1
    assert data.epochs(40)["r"] == counted["r"] / 8


def test_sources_spread_over_the_positions(tmp_path: Path) -> None:
    """No rank or microbatch sees one source only: each position gets each source in time."""
    data = open_data(tmp_path, tokens={"a": 90, "b": 90}, batch=6)
    seen = np.array([whole(data, step).source_ids_B for step in range(300)])
    share_of_b = seen.mean(axis=0)
    assert np.abs(share_of_b - 2 / 3).max() < 4 * (2 / 9 / 300) ** 0.5


def test_epochs_seeds_and_sources_are_shuffled_differently(tmp_path: Path) -> None:
    one, other = (open_data(tmp_path, tokens={"a": 401}, batch=1, seed=seed) for seed in (1, 2))
    first = [one.rows(n, positions=[0])[0].starts[0] for n in range(100)]
    second = [one.rows(100 + n, positions=[0])[0].starts[0] for n in range(100)]
    third = [other.rows(n, positions=[0])[0].starts[0] for n in range(100)]
    for left, right in pairwise([sorted(first), first, second, third, first]):
        assert sum(a == b for a, b in zip(left, right, strict=True)) < 10


def test_padding_is_masked_and_eos_is_not(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens={"a": 6}, sequence_length=4, batch=1)
    batches = {whole(data, step).tokens_BS[0, 0]: whole(data, step) for step in range(2)}
    assert batches[4].tokens_BS.tolist() == [[4, 0, 0, 0]]
    assert batches[4].labels_BS.tolist() == [[5, 0, 0, 0]]
    assert batches[4].loss_mask_BS.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert batches[0].labels_BS.tolist() == [[1, 2, 3, 4]]
    assert batches[0].loss_mask_BS.sum() == 4


def test_types(tmp_path: Path) -> None:
    batch = whole(open_data(tmp_path, tokens={"a": 50}), 0)
    found = (batch.tokens_BS, batch.labels_BS, batch.loss_mask_BS, batch.source_ids_B)
    assert [array.dtype.name for array in found] == ["int64", "int64", "float32", "int64"]


def test_a_numpy_step_is_a_step(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens={"a": 50})
    found = data.rows(int(np.int64(3)), positions=np.arange(6).tolist())
    assert data.rows(np.int64(3), positions=range(6)) == found  # type: ignore[arg-type]


def test_the_fingerprint_follows_all_that_changes_a_sample(tmp_path: Path) -> None:
    tokens = {"a": 50, "b": 30}
    seen = {
        open_data(tmp_path, tokens=tokens).fingerprint,
        open_data(tmp_path, tokens=tokens, seed=2).fingerprint,
        open_data(tmp_path, tokens=tokens, sequence_length=5).fingerprint,
        open_data(tmp_path, tokens=tokens, batch=5).fingerprint,
        open_data(tmp_path, tokens={"b": 30, "a": 50}).fingerprint,
        open_data(tmp_path, tokens={"a": 51, "b": 30}).fingerprint,
    }
    assert len(seen) == 6
    again = open_data(tmp_path, tokens=tokens)
    assert again.fingerprint in seen
    micro = replace(again.config, micro_batch_size=3)
    shards = {name: tmp_path / name for name in tokens}
    assert TrainingData.open(micro, seed=1, shards=shards).fingerprint == again.fingerprint


def test_a_shard_too_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.bin has 1 tokens, but a sample needs at least 2"):
        open_data(tmp_path, tokens={"a": 1})


def test_an_id_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens={"a": 50}, batch=13)
    small = TrainingData.open(data.config, seed=1, shards={"a": tmp_path / "a"}, vocab_size=49)
    with pytest.raises(DataError, match=r"a.bin holds id 49 at token 49"):
        whole(small, 0)


@pytest.mark.parametrize("position", [-1, 6])
def test_a_position_outside_the_batch_is_refused(tmp_path: Path, position: int) -> None:
    with pytest.raises(IndexError, match=rf"index must be in 0..5, got {position}"):
        open_data(tmp_path, tokens={"a": 50}).load(0, positions=[position])
