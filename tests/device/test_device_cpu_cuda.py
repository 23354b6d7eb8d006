# SPDX-License-Identifier: Apache-2.0
"""The stand-in for torch.cuda does what its callers count on."""

from __future__ import annotations

import time

import pytest
import torch

from megacpt.device import cpu_cuda


def test_tensors_are_made_on_the_current_device() -> None:
    assert torch.zeros(1, device=cpu_cuda.current_device()).device.type == "cpu"
    assert cpu_cuda.device_count() == 1
    assert not cpu_cuda.is_available()


def test_all_streams_are_one() -> None:
    assert cpu_cuda.Stream() == cpu_cuda.current_stream()
    assert cpu_cuda.Stream() != 1
    assert len({cpu_cuda.Stream(), cpu_cuda.default_stream()}) == 1


def test_events_measure_milliseconds() -> None:
    start, end = cpu_cuda.Event(enable_timing=True), cpu_cuda.Event(enable_timing=True)
    start.record()
    time.sleep(0.02)
    cpu_cuda.current_stream().record_event(end)
    assert end.query()
    assert 15 < start.elapsed_time(end) < 2000


def test_contexts_do_nothing() -> None:
    with cpu_cuda.stream(cpu_cuda.Stream()), cpu_cuda.device(0), cpu_cuda.nvtx.range("step"):
        assert cpu_cuda.nvtx.range_push("a") == cpu_cuda.nvtx.range_pop()


def test_generator_is_torchs_own() -> None:
    cpu_cuda.manual_seed(7)
    state = cpu_cuda.get_rng_state()
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    cpu_cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), drawn)


def test_lazy_calls_are_made_at_once() -> None:
    calls: list[int] = []
    cpu_cuda._lazy_call(lambda: calls.append(1))
    assert calls == [1]


def test_classes_may_be_named_but_functions_must_not_be_called() -> None:
    assert cpu_cuda.CUDAGraph is torch.cuda.CUDAGraph
    with pytest.raises(AttributeError, match=r"torch\.cuda\.memory_stats has no counterpart"):
        _ = cpu_cuda.memory_stats
