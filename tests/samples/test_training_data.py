# SPDX-License-Identifier: Apache-2.0
"""The order: every token once an epoch, the same samples however they are dealt out or resumed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.config.sections import (
    DataConfig,
    Packing,
    ReplayConfig,
    SampleOrder,
    SourceConfig,
    StageConfig,
    StageSourceConfig,
)
from megacpt.errors import ConfigError, DataError
from megacpt.plan.segments import apportion, resolve
from megacpt.samples.batch import Batch
from megacpt.samples.record import DataRecord
from megacpt.samples.training_data import TrainingData, fresh_record
from megacpt.shards.packing import build_packing
from megacpt.shards.reader import write_shard

in_one_folder = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BLEND = {"a": 90, "b": 41, "r": 33}


def config_of(
    tokens: Iterable[str],
    *,
    sequence_length: int = 4,
    batch: int = 6,
    replay: ReplayConfig | None = None,
    **more: Any,
) -> DataConfig:
    return DataConfig(
        sources={name: SourceConfig(prefix=name, weight=1.0 + n) for n, name in enumerate(tokens)},
        replay=replay,
        sequence_length=sequence_length,
        global_batch_size=batch,
        **more,
    )


def write_shards(folder: Path, tokens: Mapping[str, int]) -> dict[str, Path]:
    """Sources whose id at place n is n, so that a sample shows where it comes from."""
    for name, count in tokens.items():
        write_shard(folder / name, documents=[np.arange(count)], vocab_size=60_000)
    return {name: folder / name for name in tokens}


def open_data(
    folder: Path, *, tokens: Mapping[str, int], seed: int = 1, **more: Any
) -> TrainingData:
    return TrainingData.open(
        config_of(tokens, **more), seed=seed, shards=write_shards(folder, tokens)
    )


def whole(data: TrainingData, step: int) -> Batch:
    return data.load(step, positions=range(data.batch_size(step)))


def slots(data: TrainingData, step: int) -> list[tuple[int, list[int]]]:
    """Source and targets of each row, in the order the source's tape gives them."""
    batch = whole(data, step)
    rows = [
        (int(source), batch.labels_BS[b][batch.loss_mask_BS[b] > 0].tolist())
        for b, source in enumerate(batch.source_ids_B)
    ]
    return sorted(rows, key=lambda row: row[0])


def targets(data: TrainingData, *, steps: int) -> dict[str, list[int]]:
    """Labels that count of each source."""
    found: dict[str, list[int]] = {name: [] for name in data.source_names}
    for step in range(steps):
        for source, labels in slots(data, step):
            found[data.source_names[source]] += labels
    return found


def require_epochs(found: Mapping[str, list[int]], tokens: Mapping[str, int]) -> None:
    """Each target as often as the epochs begun, or once less: nothing repeats before an end."""
    for name, labels in found.items():
        epochs, rest = divmod(len(labels), tokens[name] - 1)
        counts = Counter(labels)
        assert set(counts) <= set(range(1, tokens[name]))
        if labels:
            assert set(counts.values()) <= {epochs, epochs + 1}
        assert sum(count == epochs + 1 for count in counts.values()) == rest


@given(tokens=st.integers(2, 90), length=st.integers(1, 20), seed=st.integers(0, 9))
@in_one_folder
def test_every_token_is_a_target_once_an_epoch(
    tmp_path: Path, tokens: int, length: int, seed: int
) -> None:
    """Two whole epochs of one sample a batch; the first token of a shard is never a target."""
    data = open_data(tmp_path, tokens={"a": tokens}, sequence_length=length, batch=1, seed=seed)
    samples = -(-(tokens - 1) // length)
    found = targets(data, steps=2 * samples)["a"]
    assert len(found) == 2 * (tokens - 1)
    assert sorted(found[: tokens - 1]) == sorted(found[tokens - 1 :]) == list(range(1, tokens))
    assert data.epochs(2 * samples) == {"a": 2.0}


def stages(draw: st.DrawFn, names: list[str], *, has_replay: bool) -> dict[str, StageConfig]:
    """Up to four stages that change anything; lengths divide 24."""
    found = {}
    begin = 0
    for n in range(draw(st.integers(0, 4))):
        begin += draw(st.integers(1, 12))
        active = draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names)))
        weight = st.integers(1, 5).map(lambda w: StageSourceConfig(weight=float(w)))
        found[f"s{n}"] = StageConfig(
            from_step=begin,
            sources={name: draw(weight) for name in active},
            replay_share=draw(st.none() | st.sampled_from([0.1, 0.5])) if has_replay else None,
            sequence_length=draw(st.none() | st.sampled_from([1, 3, 4, 8, 12, 24])),
            global_batch_size=draw(st.none() | st.integers(1, 9)),
        )
    return found


@st.composite
def blends(draw: st.DrawFn) -> tuple[dict[str, int], DataConfig]:
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    tokens = {name: draw(st.integers(2, 150)) for name in names}
    replay = draw(st.none() | st.just(ReplayConfig(source="r", share=0.2)))
    if replay:
        tokens["r"] = draw(st.integers(2, 100))
    config = config_of(
        tokens,
        sequence_length=draw(st.sampled_from([2, 6, 24])),
        batch=draw(st.integers(1, 9)),
        replay=replay,
        chunk_length=24,
        stages=stages(draw, names, has_replay=replay is not None),
    )
    return tokens, config


@given(blend=blends(), steps=st.integers(1, 60))
@in_one_folder
def test_stages_lose_and_repeat_nothing(
    tmp_path: Path, blend: tuple[dict[str, int], DataConfig], steps: int
) -> None:
    tokens, config = blend
    data = TrainingData.open(config, seed=3, shards=write_shards(tmp_path, tokens))
    found = targets(data, steps=steps)
    require_epochs(found, tokens)
    for name, epochs in data.epochs(steps).items():
        assert epochs == pytest.approx(len(found[name]) / (tokens[name] - 1))


@given(blend=blends(), steps=st.integers(1, 60))
@in_one_folder
def test_every_prefix_of_a_segment_is_within_one_sample_of_its_shares(
    tmp_path: Path, blend: tuple[dict[str, int], DataConfig], steps: int
) -> None:
    tokens, config = blend
    data = TrainingData.open(config, seed=3, shards=write_shards(tmp_path, tokens))
    for segment, following in pairwise([*data.segments, None]):
        assert segment is not None
        before = data.consumed_samples(segment.from_step)
        end = following.from_step if following else max(steps, segment.from_step)
        for step in range(segment.from_step, end + 1):
            drawn = data.consumed_samples(step)
            size = segment.global_batch_size * (step - segment.from_step)
            assert sum(drawn.values()) - sum(before.values()) == size
            for name in tokens:
                asked = float(segment.shares.get(name, 0) * size)
                assert abs(drawn[name] - before[name] - asked) < 1 + 1e-9


@given(blend=blends(), at=st.integers(0, 40), further=st.integers(0, 20))
@in_one_folder
def test_a_run_can_be_resumed_anywhere(
    tmp_path: Path, blend: tuple[dict[str, int], DataConfig], at: int, further: int
) -> None:
    """From the record of a checkpoint, by a process that saw nothing of the steps before."""
    tokens, config = blend
    shards = write_shards(tmp_path, tokens)
    undisturbed = TrainingData.open(config, seed=3, shards=shards)
    record = json.loads(json.dumps(undisturbed.record(at), sort_keys=True))
    resumed = TrainingData.open(config, seed=3, shards=shards, record=record)
    for step in (at, at + further):
        assert slots(resumed, step) == slots(undisturbed, step)
        assert resumed.consumed_samples(step) == undisturbed.consumed_samples(step)
        assert resumed.epochs(step) == undisturbed.epochs(step)
        assert resumed.record(step) == undisturbed.record(step)
    assert slots(resumed, at // 2) == slots(undisturbed, at // 2)


@given(blend=blends(), at=st.integers(1, 40), further=st.integers(0, 20))
@in_one_folder
def test_a_new_run_draws_what_another_would_have_drawn_next(
    tmp_path: Path, blend: tuple[dict[str, int], DataConfig], at: int, further: int
) -> None:
    """Counting its own steps from 0; it resumes from its own records."""
    tokens, config = blend
    config = replace(config, stages={})
    shards = write_shards(tmp_path, tokens)
    other = TrainingData.open(config, seed=3, shards=shards)
    record = DataRecord.from_json(other.record(at)).at_step(0).to_json()
    run = TrainingData.open(config, seed=3, shards=shards, record=record)
    resumed = TrainingData.open(config, seed=3, shards=shards, record=run.record(further))
    for data in (run, resumed):
        assert sorted(slots(data, further)) == sorted(slots(other, at + further))
        assert data.consumed_samples(further) == other.consumed_samples(at + further)


@given(blend=blends(), at=st.integers(1, 40), further=st.integers(0, 20))
@in_one_folder
def test_a_new_run_draws_anew_although_its_steps_go_on(
    tmp_path: Path, blend: tuple[dict[str, int], DataConfig], at: int, further: int
) -> None:
    tokens, config = blend
    config = replace(config, stages={})
    shards = write_shards(tmp_path, tokens)
    other = TrainingData.open(config, seed=3, shards=shards)
    record = fresh_record(config, seed=3, step=at).to_json()
    run = TrainingData.open(config, seed=3, shards=shards, record=record)
    resumed = TrainingData.open(config, seed=3, shards=shards, record=run.record(at + further))
    for data in (run, resumed):
        assert sorted(slots(data, at + further)) == sorted(slots(other, further))
        assert data.consumed_samples(at + further) == other.consumed_samples(further)


@given(blend=blends(), cuts=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=4))
@in_one_folder
def test_a_run_may_change_its_batch_size_whenever_it_resumes(
    tmp_path: Path,
    blend: tuple[dict[str, int], DataConfig],
    cuts: list[tuple[int, int]],
) -> None:
    tokens, config = blend
    shards = write_shards(tmp_path, tokens)
    config = replace(config, stages={})
    data = TrainingData.open(config, seed=3, shards=shards)
    found: dict[str, list[int]] = {name: [] for name in tokens}
    done = samples = 0
    for steps, batch in [*cuts, (5, 4)]:
        config = replace(config, global_batch_size=batch)
        data = TrainingData.open(config, seed=3, shards=shards, record=data.record(done))
        for step in range(done, done + steps):
            assert data.batch_size(step) == batch
            for source, labels in slots(data, step):
                found[data.source_names[source]] += labels
                samples += 1
        done += steps
        assert sum(data.consumed_samples(done).values()) == samples
        require_epochs(found, tokens)


def test_a_new_batch_size_goes_on_where_the_old_one_stopped(tmp_path: Path) -> None:
    """One epoch of one source is the same samples in the same order for any batch sizes."""
    tokens = {"a": 48 * 4 + 1}
    data = open_data(tmp_path, tokens=tokens, batch=6)
    bigger = TrainingData.open(
        replace(data.config, global_batch_size=12),
        seed=1,
        shards={"a": tmp_path / "a"},
        record=data.record(4),
    )
    drawn = [slots(data, n) for n in range(4)] + [slots(bigger, n) for n in (4, 5)]
    assert sorted(labels[0] for part in drawn for _, labels in part) == list(range(1, 193, 4))


@pytest.mark.parametrize(("dp", "micro"), [(1, 1), (1, 12), (2, 3), (3, 2), (4, 1), (12, 1)])
def test_any_split_over_ranks_is_the_same_batch(tmp_path: Path, dp: int, micro: int) -> None:
    change = StageConfig(from_step=3, sequence_length=2, replay_share=0.25)
    more: dict[str, Any] = {
        "batch": 12,
        "replay": ReplayConfig(source="r", share=0.1),
        "stages": {"short": change},
    }
    expected = [whole(open_data(tmp_path, tokens=BLEND, **more), step) for step in range(5)]
    ranks = [open_data(tmp_path, tokens=BLEND, **more) for _ in range(dp)]
    for step, batch in enumerate(expected):
        for start in range(0, 12, micro):
            rank = start // micro % dp
            part = ranks[rank].load(step, positions=range(start, start + micro))
            rows = slice(start, start + micro)
            np.testing.assert_array_equal(part.tokens_BS, batch.tokens_BS[rows])
            np.testing.assert_array_equal(part.labels_BS, batch.labels_BS[rows])
            np.testing.assert_array_equal(part.loss_mask_BS, batch.loss_mask_BS[rows])
            np.testing.assert_array_equal(part.source_ids_B, batch.source_ids_B[rows])


@given(steps=st.lists(st.integers(0, 310), min_size=1, max_size=6))
@in_one_folder
def test_what_was_read_before_does_not_matter(tmp_path: Path, steps: list[int]) -> None:
    replay = ReplayConfig(source="r", share=0.15)
    used = open_data(tmp_path, tokens=BLEND, replay=replay)
    for step in steps:
        fresh = open_data(tmp_path, tokens=BLEND, replay=replay)
        np.testing.assert_array_equal(whole(fresh, step).tokens_BS, whole(used, step).tokens_BS)
        assert fresh.consumed_samples(step) == used.consumed_samples(step)


def test_counts_are_those_of_the_samples(tmp_path: Path) -> None:
    replay = ReplayConfig(source="r", share=0.3)
    data = open_data(tmp_path, tokens=BLEND, replay=replay)
    counted: Counter[str] = Counter()
    for step in range(40):
        assert data.consumed_samples(step) == {name: counted[name] for name in data.source_names}
        counted.update(data.source_names[n] for n in whole(data, step).source_ids_B)
    shares = resolve(data.config)[0].shares
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


def test_neighbours_in_a_tile_are_batches_apart(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens={"a": 100 * 32 * 8 + 1}, batch=32, chunk_length=32)
    latest: dict[int, int] = {}
    for step in range(200):
        for row in data.rows(step, positions=range(32)):
            tile = int(row.starts[0]) // 32
            assert step - latest.get(tile, -9) >= 3
            latest[tile] = step


def test_a_source_can_come_and_go(tmp_path: Path) -> None:
    """Weight 0 keeps a source for a stage; one that is left out goes on where it stopped."""
    shards = write_shards(tmp_path, BLEND)
    config = config_of(BLEND, batch=4)
    config.sources["b"].weight = 0.0
    only_b = StageConfig(from_step=4, sources={"b": StageSourceConfig()})
    config.stages = {
        "other": only_b,
        "back": StageConfig(from_step=6, sources={"a": StageSourceConfig()}),
    }
    data = TrainingData.open(config, seed=1, shards=shards)
    seen = [set(whole(data, step).source_ids_B.tolist()) for step in range(8)]
    assert seen[:4] == [{0, 2}] * 4
    assert seen[4:] == [{1}, {1}, {0}, {0}]
    assert data.consumed_samples(8)["b"] == 8
    require_epochs(targets(data, steps=30), BLEND)


def test_a_stage_begins_after_so_many_tokens(tmp_path: Path) -> None:
    """24 tokens a step; 100 are reached after 5, or after 2 and 2 when those have twice as many."""
    stage = StageConfig(from_tokens=100, sequence_length=2)
    data = open_data(tmp_path, tokens=BLEND, stages={"short": stage})
    assert [data.sequence_length(step) for step in range(7)] == [4] * 5 + [2] * 2
    config = replace(data.config, global_batch_size=12)
    shards = {name: tmp_path / name for name in BLEND}
    resumed = TrainingData.open(config, seed=1, shards=shards, record=data.record(2))
    assert [resumed.sequence_length(step) for step in range(6)] == [4] * 4 + [2] * 2
    assert [resumed.batch_size(step) for step in range(4)] == [6, 6, 12, 12]


def test_past_stages_may_not_be_edited_and_coming_ones_may(tmp_path: Path) -> None:
    """Moving, changing and dropping a stage are refused when it has begun, and only then."""
    begun = StageConfig(from_step=10, replay_share=0.5)
    replay = ReplayConfig(source="r", share=0.2)
    data = open_data(tmp_path, tokens=BLEND, replay=replay, stages={"more": begun})
    shards = {name: tmp_path / name for name in BLEND}

    def open_with(change: dict[str, StageConfig], *, at: int) -> TrainingData:
        config = replace(data.config, stages=change)
        return TrainingData.open(config, seed=1, shards=shards, record=data.record(at))

    for change in (
        {},
        {"more": replace(begun, from_step=11)},
        {"more": replace(begun, replay_share=0.4)},
        {"new": StageConfig(from_step=5, sequence_length=2), "more": begun},
    ):
        with pytest.raises(
            ConfigError, match="12 steps are done and past stages may not be edited"
        ):
            open_with(change, at=12)
        if "new" not in change:
            assert open_with(change, at=10).consumed_samples(10) == data.consumed_samples(10)
    with pytest.raises(ConfigError, match=r"data.stages.more=from step 10 differs .* r 0.5 .* 0.4"):
        open_with({"more": replace(begun, replay_share=0.4)}, at=12)
    later = {"more": begun, "last": StageConfig(from_step=12, sequence_length=2)}
    assert open_with(later, at=12).sequence_length(12) == 2


def test_a_new_source_may_join_a_run(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens=BLEND)
    record = data.record(5)
    config = config_of(BLEND)
    config.sources["new"] = SourceConfig(prefix="new", weight=0.0)
    both = {name: StageSourceConfig() for name in ("a", "new")}
    config.stages = {"joined": StageConfig(from_step=5, sources=both)}
    shards = write_shards(tmp_path, BLEND | {"new": 70})
    joined = TrainingData.open(config, seed=1, shards=shards, record=record)
    assert set(whole(joined, 5).source_ids_B.tolist()) == {0, 3}
    require_epochs(targets(joined, steps=40), BLEND | {"new": 70})


def test_a_record_of_no_steps_binds_nothing_of_the_blend(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens={"a": 90, "b": 41})
    config = config_of(BLEND, batch=4)
    shards = write_shards(tmp_path, BLEND)
    resumed = TrainingData.open(config, seed=1, shards=shards, record=data.record(0))
    assert slots(resumed, 3) == slots(TrainingData.open(config, seed=1, shards=shards), 3)


def test_a_run_keeps_its_tiles_when_a_longer_stage_is_added(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens=BLEND)
    shards = {name: tmp_path / name for name in BLEND}
    longer = replace(data.config, stages={"long": StageConfig(from_step=9, sequence_length=8)})
    message = "data.stages.long.sequence_length=8 does not divide the 4 tokens that are shuffled"
    with pytest.raises(ConfigError, match=message):
        TrainingData.open(longer, seed=1, shards=shards, record=data.record(5))
    shorter = replace(data.config, stages={"short": StageConfig(from_step=9, sequence_length=2)})
    TrainingData.open(shorter, seed=1, shards=shards, record=data.record(5))


def test_other_contents_and_settings_than_recorded_are_named(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens=BLEND)
    record, config = data.record(5), data.config
    shards = {name: tmp_path / name for name in BLEND}
    with pytest.raises(DataError, match="seed is 2, but the run began with 1; restore it"):
        TrainingData.open(config, seed=2, shards=shards, record=record)
    with pytest.raises(DataError, match=r"data.chunk_length is 8, but the run began with 4"):
        TrainingData.open(replace(config, chunk_length=8), seed=1, shards=shards, record=record)
    with pytest.raises(DataError, match=r"record of the data cannot be read \(KeyError: 'seed'"):
        TrainingData.open(config, seed=1, shards=shards, record={"step": 1})
    write_shard(tmp_path / "b", documents=[np.arange(40)], vocab_size=60_000)
    with pytest.raises(DataError, match=r"data.sources.b holds other tokens than those the run"):
        TrainingData.open(config, seed=1, shards=shards, record=record)


def test_a_source_beyond_its_epochs_is_refused(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, BLEND)
    config = config_of(BLEND, batch=6)
    config.sources["b"].max_epochs = 2.0
    TrainingData.open(config, seed=1, shards=shards, steps=10)
    message = r"data.sources.b.max_epochs=2.0 is exceeded: 11 steps go through b 2.200 times; "
    with pytest.raises(ConfigError, match=message + "use schedule.steps=10 or fewer"):
        TrainingData.open(config, seed=1, shards=shards, steps=11)


def test_best_fit_gives_each_packed_row_once_an_epoch(tmp_path: Path) -> None:
    """Over a change of blend and of batch size; documents of up to 4 inputs are never cut."""
    lengths = np.random.default_rng(5).integers(2, 6, size=40)
    ends = np.cumsum([0, *lengths])
    documents = [np.arange(a, b) for a, b in pairwise(ends.tolist())]
    for name in ("a", "b"):
        shard = write_shard(tmp_path / name, documents=documents, vocab_size=60_000)
        build_packing(shard, sequence_length=4)
    shards = {name: tmp_path / name for name in ("a", "b")}
    change = StageConfig(from_step=3, sources={"b": StageSourceConfig()}, global_batch_size=5)
    config = config_of(shards, packing=Packing.best_fit, stages={"only_b": change})
    data = TrainingData.open(config, seed=1, shards=shards)
    rows = [row for step in range(12) for row in data.rows(step, positions=range(5 + (step < 3)))]
    for number, name in enumerate(shards):
        found = Counter(
            (int(a), int(b))
            for row in rows
            if row.source_id == number
            for a, b in zip(row.starts, row.stops, strict=True)
        )
        assert set(found) <= set(pairwise(ends.tolist()))
        assert data.consumed_samples(12)[name] == sum(row.source_id == number for row in rows)
        assert set(found.values()) <= {int(data.epochs(12)[name]), int(data.epochs(12)[name]) + 1}
    resumed = TrainingData.open(config, seed=1, shards=shards, record=data.record(7))
    assert slots(resumed, 9) == slots(data, 9)


def test_megatron_s_order_is_had_by_name(tmp_path: Path) -> None:
    """The samples are compared with megatron-core's own in test_data_megatron_order.py."""
    shards = write_shards(tmp_path, BLEND)
    config = config_of(BLEND, order=SampleOrder.megatron)
    data = TrainingData.open(config, seed=1, shards=shards, steps=4)
    assert all(row.joined for row in data.rows(0, positions=range(6)))
    assert whole(data, 0).loss_mask_BS.sum() == 24
    record = json.loads(json.dumps(data.record(2)))
    resumed = TrainingData.open(config, seed=1, shards=shards, steps=4, record=record)
    assert slots(resumed, 2) == slots(data, 2)
    assert sum(data.consumed_samples(2).values()) == 12
    assert data.epochs(2)["r"] == pytest.approx(data.consumed_samples(2)["r"] * 4 / 33)
    other = replace(config, global_batch_size=12)
    with pytest.raises(DataError, match=r"began with 6, which data.order=megatron cannot change"):
        TrainingData.open(other, seed=1, shards=shards, steps=4, record=record)
    with pytest.raises(DataError, match=r"data.order is keyed, but the run began with megatron"):
        TrainingData.open(config_of(BLEND), seed=1, shards=shards, record=record)


def test_a_long_run_of_many_sources_resumes_at_once(tmp_path: Path) -> None:
    """Counting a million batches of 300 sources again would take several seconds."""
    tokens = {f"s{n}": 40 + n for n in range(300)}
    data = open_data(tmp_path, tokens=tokens, batch=64)
    record = data.record(100)
    shares = data.segments[0].shares
    record["step"] = 1_000_000
    drawn = apportion(shares, total=64_000_000)
    for source in record["segments"][0]["sources"]:
        source["samples"] = drawn[source["name"]]
    shards = {name: tmp_path / name for name in tokens}
    began = time.perf_counter()
    resumed = TrainingData.open(data.config, seed=1, shards=shards, record=record)
    resumed.load(1_000_000, positions=range(64))
    assert sum(resumed.consumed_samples(1_000_003).values()) == 64 * 1_000_003
    assert time.perf_counter() - began < 2


def test_padding_is_masked_and_eos_is_not(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens={"a": 6}, sequence_length=4, batch=1)
    batches = {whole(data, step).tokens_BS[0, 0]: whole(data, step) for step in range(2)}
    assert batches[4].tokens_BS.tolist() == [[4, 0, 0, 0]]
    assert batches[4].labels_BS.tolist() == [[5, 0, 0, 0]]
    assert batches[4].loss_mask_BS.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert batches[0].labels_BS.tolist() == [[1, 2, 3, 4]]
    assert batches[0].loss_mask_BS.sum() == 4


def test_a_numpy_step_is_a_step(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens={"a": 50})
    found = data.load(int(np.int64(3)), positions=np.arange(6).tolist())
    again = data.load(np.int64(3), positions=np.arange(6))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.tokens_BS, again.tokens_BS)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"sequence_length": 5},
        {"tokens": {"b": 30, "a": 50}},
        {"tokens": {"a": 51, "b": 30}},
    ],
    ids=str,
)
def test_all_that_changes_the_order_of_the_past_is_refused(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    made: dict[str, Any] = {"tokens": {"a": 50, "b": 30}, "seed": 1, "sequence_length": 4} | changed
    record = open_data(tmp_path / "was", tokens={"a": 50, "b": 30}).record(3)
    shards = write_shards(tmp_path / "now", made["tokens"])
    config = config_of(made["tokens"], sequence_length=made["sequence_length"])
    with pytest.raises((ConfigError, DataError)):
        TrainingData.open(config, seed=made["seed"], shards=shards, record=record)


def test_a_micro_batch_changes_no_sample(tmp_path: Path) -> None:
    data = open_data(tmp_path, tokens=BLEND)
    micro = replace(data.config, micro_batch_size=3)
    shards = {name: tmp_path / name for name in BLEND}
    resumed = TrainingData.open(micro, seed=1, shards=shards, record=data.record(3))
    assert slots(resumed, 3) == slots(data, 3)


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
