# SPDX-License-Identifier: Apache-2.0
"""The stand-in for torch.cuda does what its callers count on."""

from __future__ import annotations

import time

import pytest
import torch

from megacpt.device.cpu import stub


def test_tensors_are_made_on_the_current_device() -> None:
    assert torch.zeros(1, device=stub.current_device()).device.type == "cpu"
    assert stub.device_count() == 1
    assert not stub.is_available()


def test_all_streams_are_one() -> None:
    assert stub.Stream() == stub.current_stream()
    assert stub.Stream() != 1
    assert len({stub.Stream(), stub.default_stream()}) == 1


def test_events_measure_milliseconds() -> None:
    start, end = stub.Event(enable_timing=True), stub.Event(enable_timing=True)
    start.record()
    time.sleep(0.02)
    stub.current_stream().record_event(end)
    assert end.query()
    assert 15 < start.elapsed_time(end) < 2000


def test_contexts_do_nothing() -> None:
    with stub.stream(stub.Stream()), stub.device(0), stub.nvtx.range("step"):
        assert stub.nvtx.range_push("a") == stub.nvtx.range_pop()


def test_generator_is_torchs_own() -> None:
    stub.manual_seed(7)
    state = stub.get_rng_state()
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    stub.set_rng_state(state)
    assert torch.equal(torch.rand(3), drawn)


def test_lazy_calls_are_made_at_once() -> None:
    calls: list[int] = []
    stub._lazy_call(lambda: calls.append(1))
    assert calls == [1]


def test_classes_may_be_named_but_functions_must_not_be_called() -> None:
    assert stub.CUDAGraph is torch.cuda.CUDAGraph
    with pytest.raises(AttributeError, match=r"torch\.cuda\.memory_stats has no counterpart"):
        _ = stub.memory_stats
