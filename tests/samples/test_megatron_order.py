# SPDX-License-Identifier: Apache-2.0
"""``order: megatron`` gives the tokens of megatron-core's own datasets, sample for sample."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from megacpt.config.sections import DataConfig, ReplayConfig, SourceConfig
from megacpt.errors import ConfigError, DataError
from megacpt.samples.batch import make_batch
from megacpt.samples.megatron_order import EpochPlan, MegatronOrder, data_path_weights
from megacpt.shards.reader import IndexedShard, write_shard
from tests.shards.test_reader import megatron

VOCAB = 1000
Tokens = npt.NDArray[np.int64]


def write_corpus(prefix: Path, rng: np.random.Generator) -> IndexedShard:
    """Documents of 0 to 60 tokens, many of none and of one; at least two tokens in all."""
    lengths = rng.choice([0, 0, 1, 1, 2, 5, 17, 60], size=rng.integers(1, 80))
    lengths = np.append(lengths, 2)
    rng.shuffle(lengths)
    return write_shard(
        prefix, documents=[rng.integers(0, VOCAB, size=int(n)) for n in lengths], vocab_size=VOCAB
    )


def ours(order: MegatronOrder, *, sequence_length: int) -> Iterator[tuple[Tokens, Tokens]]:
    positions = range(order.global_batch_size)
    for step in range(order.num_samples // order.global_batch_size):
        rows = order.rows(step, positions=positions)
        batch = make_batch(rows, sequence_length=sequence_length)
        assert np.all(batch.loss_mask_BS == 1)
        yield from zip(batch.tokens_BS, batch.labels_BS, strict=True)


def theirs(
    prefixes: Sequence[Path],
    *,
    weights: Sequence[float] | None,
    seed: int,
    sequence_length: int,
    num_samples: int,
    by_split: bool,
) -> Any:
    """megatron-core's training dataset, from the arguments its command line would give."""
    from megacpt.device.cpu import import_hook

    import_hook.install()
    core = "megatron.core.datasets"
    gpt = importlib.import_module(f"{core}.gpt_dataset")
    builder = importlib.import_module(f"{core}.blended_megatron_dataset_builder")
    blend = ([str(prefix) for prefix in prefixes], weights)
    per_split = {"blend_per_split": [blend, None, None]}
    config = gpt.GPTDatasetConfig(
        random_seed=seed,
        sequence_length=sequence_length,
        tokenizer=SimpleNamespace(vocab_size=VOCAB, pad=-1, eod=0, eos=0, unique_identifiers={}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        **({"blend": blend, "split": "100,0,0"} if by_split else per_split),
    )
    sizes = [num_samples, 0, 0]
    return builder.BlendedMegatronDatasetBuilder(
        gpt.GPTDataset, sizes, lambda: True, config
    ).build()[0]


@pytest.mark.mcore
@pytest.mark.parametrize("case", range(24))
@pytest.mark.filterwarnings("ignore:.*pad token")
def test_tokens_equal_megatron_core_s(tmp_path: Path, case: int) -> None:
    rng = np.random.default_rng(case)
    shards = {f"s{n}": write_corpus(tmp_path / f"s{n}", rng) for n in range(1 + case % 5)}
    weights = {name: float(rng.choice([0.1, 0.3, 1, 2.5, 30])) for name in shards}
    seed, length = int(rng.integers(2**32)), int(rng.choice([1, 2, 7, 16, 33]))
    batch, steps = int(rng.integers(1, 9)), int(rng.integers(1, 40))
    order = MegatronOrder.open(
        shards,
        weights=weights,
        seed=seed,
        sequence_length=length,
        global_batch_size=batch,
        steps=steps,
    )
    dataset = theirs(
        [shard.prefix for shard in shards.values()],
        weights=list(weights.values()) if len(shards) > 1 else None,
        seed=seed,
        sequence_length=length,
        num_samples=steps * batch,
        by_split=case % 2 == 0,
    )
    for n, (tokens, labels) in enumerate(ours(order, sequence_length=length)):
        sample = dataset[n]
        assert tokens.tolist() == sample["tokens"].tolist()
        assert labels.tolist() == sample["labels"].tolist()


@pytest.mark.mcore
@pytest.mark.parametrize(
    ("dtype", "multimodal"),
    [("uint8", False), ("int8", False), ("int16", True), ("int64", False), ("uint8", True)],
)
@pytest.mark.filterwarnings("ignore:.*pad token", "ignore:__array__")
def test_shards_of_other_types_are_read_as_gpt_dataset_reads_them(
    tmp_path: Path, dtype: str, multimodal: bool
) -> None:
    """Sources shorter than a sample, too; GPTDataset leaves modes out."""
    import torch

    rng = np.random.default_rng(3)
    builder = megatron().IndexedDatasetBuilder(
        str(tmp_path / "s.bin"), dtype=np.dtype(dtype).type, multimodal=multimodal
    )
    for length in (3, 0, 1, 9, 0, 4):
        builder.add_item(torch.from_numpy(rng.integers(0, 100, size=length)))
        builder.end_document()
    builder.finalize(str(tmp_path / "s.idx"))
    length, steps = 20, 9
    order = open_order(
        {"s": IndexedShard(tmp_path / "s", vocab_size=100)}, sequence_length=length, steps=steps
    )
    dataset = theirs(
        [tmp_path / "s"],
        weights=None,
        seed=1,
        sequence_length=length,
        num_samples=steps,
        by_split=True,
    )
    for n, (tokens, labels) in enumerate(ours(order, sequence_length=length)):
        assert tokens.tolist() == dataset[n]["tokens"].tolist()
        assert labels.tolist() == dataset[n]["labels"].tolist()


@pytest.mark.mcore
@pytest.mark.parametrize("num_tokens", [2, 3, 10, 101])
def test_the_plan_of_epochs_equals_megatron_core_s(tmp_path: Path, num_tokens: int) -> None:
    """Every number of samples up to several epochs: both sides of each threshold."""
    shard = write_shard(tmp_path / "s", documents=[np.arange(num_tokens)], vocab_size=VOCAB)
    for num_samples in range(1, 40):
        plan = EpochPlan.of(num_tokens=num_tokens, num_samples=num_samples, sequence_length=9)
        dataset = theirs(
            [shard.prefix],
            weights=None,
            seed=1,
            sequence_length=9,
            num_samples=num_samples,
            by_split=True,
        )
        assert plan.num_epochs == dataset.document_index.size
        order = open_order({"s": shard}, sequence_length=9, steps=num_samples)
        np.testing.assert_array_equal(order.sources["s"].shuffle_index, dataset.shuffle_index)


def open_order(shards: Mapping[str, IndexedShard], **changed: Any) -> MegatronOrder:
    settings = {"seed": 1, "sequence_length": 8, "global_batch_size": 1, "steps": 10}
    return MegatronOrder.open(
        shards, weights=changed.pop("weights", dict.fromkeys(shards, 1.0)), **(settings | changed)
    )


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, IndexedShard]:
    rng = np.random.default_rng(0)
    return {name: write_corpus(tmp_path / name, rng) for name in ("a", "b", "c")}


def test_every_target_comes_once_an_epoch(shards: dict[str, IndexedShard]) -> None:
    shard = shards["a"]
    steps = (shard.num_tokens - 1) // 8
    order = open_order({"a": shard}, steps=steps)
    rows = [order.rows(step, positions=[0])[0] for step in range(steps)]
    spans = [range(i, j) for row in rows for i, j in zip(row.starts, row.stops, strict=True)]
    read = np.bincount([token for span in spans for token in span], minlength=shard.num_tokens)
    assert read.sum() == steps * 9
    assert set(read.tolist()) <= {0, 1, 2}
    assert np.count_nonzero(read == 2) == steps - 1


def test_consumed_samples_add_up_at_every_step(shards: dict[str, IndexedShard]) -> None:
    weights = {"a": 1.0, "b": 0.004, "c": 3.0}
    order = open_order(shards, weights=weights, global_batch_size=2, steps=900)
    counts = dict.fromkeys(shards, 0)
    ids = list(shards)
    for step in range(900):
        assert order.consumed_samples(step) == counts
        for row in order.rows(step, positions=[0, 1]):
            counts[ids[row.source_id]] += 1
    assert order.consumed_samples(900) == counts


def test_consumed_samples_of_one_source(shards: dict[str, IndexedShard]) -> None:
    order = open_order({"b": shards["b"]}, global_batch_size=4)
    assert order.consumed_samples(0) == {"b": 0}
    assert order.consumed_samples(10) == {"b": 40}


def test_nothing_is_given_beyond_the_run(shards: dict[str, IndexedShard]) -> None:
    order = open_order({"a": shards["a"]})
    for outside in (-1, 10):
        with pytest.raises(IndexError, match=f"sample {outside} of 10"):
            order.rows(outside, positions=[0])
    with pytest.raises(IndexError, match="11 samples, but the order has 10"):
        order.consumed_samples(11)


def test_replay_s_share_becomes_a_weight() -> None:
    config = DataConfig(sources={"law": SourceConfig(weight=3), "web": SourceConfig(weight=1)})
    shares = {"law": Fraction(9, 10), "web": Fraction(1, 10)}
    assert data_path_weights(config, shares=shares) == {"law": 3.0, "web": 1.0}
    config.replay = ReplayConfig(source="web", share=0.1)
    assert data_path_weights(config, shares=shares) == {"law": 0.9, "web": 0.1}


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_refuses_is_named(shards: dict[str, IndexedShard], seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"seed={seed} must be in 0\.\.4294967295"):
        open_order(shards, seed=seed)


def test_a_source_without_tokens_is_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "none", documents=[[], []], vocab_size=VOCAB)
    with pytest.raises(DataError, match=r"none\.bin holds no tokens; tokenize more text"):
        open_order({"none": shard})


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"steps": 2**27, "global_batch_size": 16, "sequence_length": 1}, "the samples of .*a"),
        ({"steps": 2**29, "sequence_length": 2**12}, "a laid end to end"),
    ],
)
def test_an_index_too_large_for_memory_is_named(
    shards: dict[str, IndexedShard], changed: dict[str, int], what: str
) -> None:
    with pytest.raises(DataError, match=rf"{what} would take [\d,]+ entries.*data.order=keyed"):
        open_order({"a": shards["a"]}, **changed)


def test_a_blend_that_megatron_core_refuses_is_named(shards: dict[str, IndexedShard]) -> None:
    """It adds up ceilings of shares, so that many small sources draw more than their surplus."""
    many = {f"s{n}": shards["a"] for n in range(40)} | {"large": shards["b"]}
    weights = dict.fromkeys(many, 1.0) | {"large": 4000.0}
    with pytest.raises(DataError, match=r"data\.sources\.large: the blend draws .* ended; use"):
        open_order(many, weights=weights, steps=600, sequence_length=4_000)
