# SPDX-License-Identifier: Apache-2.0
"""Groups, multipliers and decay as megatron-core's optimizer has them, and one step by NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from megacpt.config.sections import (
    DataConfig,
    Dtype,
    Init,
    MuonConfig,
    OptimConfig,
    Optimizer,
    ParallelConfig,
    PrecisionConfig,
    RunConfig,
)
from tests.support import write_model_folder

pytestmark = pytest.mark.mcore

LR = 1e-2
NS_COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Of the five iterations, from https://kellerjordan.github.io/posts/muon/ as tuned since."""


@pytest.fixture
def folder(tmp_path: Path, one_rank: None) -> Iterator[Path]:
    return write_model_folder(tmp_path / "model", num_hidden_layers=1)


def state_of(folder: Path, optim: OptimConfig, **parallel: bool) -> Any:
    """Model, DDP and optimizer of a one-layer run, as train builds them."""
    import torch
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from megacpt.config.sections import DeviceKind
    from megacpt.device.environment import RankInfo
    from megacpt.device.runtime import Runtime
    from megacpt.families import read_architecture
    from megacpt.model.chunks import build_chunks
    from megacpt.train.state import wrap_for_training

    model_parallel_cuda_manual_seed(1)
    ranks = RankInfo(
        rank=0, world_size=1, local_rank=0, local_world_size=1, master_addr="", master_port=0
    )
    device = torch.device("cpu")
    config = RunConfig(
        data=DataConfig(sequence_length=16),
        optim=optim,
        parallel=ParallelConfig(**parallel),
        precision=PrecisionConfig(dtype=Dtype.fp32),
    )
    config.model.init = Init.random
    chunks = build_chunks(
        config,
        architecture=read_architecture(folder),
        runtime=Runtime(ranks=ranks, kind=DeviceKind.cpu, device=device),
        base_folder=folder,
    )
    return wrap_for_training(
        chunks,
        parallel=config.parallel,
        precision=config.precision,
        optim=config.optim,
        device=device,
    )


def named(state: Any) -> dict[str, Any]:
    return dict(state.chunks[0].module.named_parameters())


def take_step(state: Any, optim: OptimConfig) -> dict[str, npt.NDArray[np.float32]]:
    """One update with random gradients, which are returned."""
    from megacpt.train.optimizer import set_learning_rate

    gradients = draw_gradients(state)
    set_learning_rate(state.optimizer, lr=LR, optim=optim)
    state.optimizer.step()
    return gradients


def draw_gradients(state: Any) -> dict[str, npt.NDArray[np.float32]]:
    """The same each time."""
    import torch

    generator = torch.Generator().manual_seed(3)
    gradients = {}
    for name, param in named(state).items():
        param.main_grad.normal_(generator=generator)
        gradients[name] = param.main_grad.clone().numpy()
    return gradients


def values(state: Any) -> dict[str, npt.NDArray[np.float32]]:
    return {name: param.detach().clone().numpy() for name, param in named(state).items()}


def multipliers(name: str, shape: tuple[int, ...], optim: OptimConfig) -> tuple[float, float]:
    """(rate, decay) by the words of the configuration page."""
    if "word_embeddings" in name:
        return optim.embedding_lr_multiplier, float(optim.decay_embeddings)
    if "output_layer" in name:
        return optim.head_lr_multiplier, float(optim.decay_embeddings)
    return 1.0, float(optim.decay_norms or len(shape) > 1)


def adamw_step(
    value: npt.NDArray[np.float32], gradient: npt.NDArray[np.float32], *, lr: float, decay: float,
    optim: OptimConfig,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Loshchilov and Hutter, algorithm 2 (https://arxiv.org/abs/1711.05101), step 1."""
    g = gradient.astype(np.float64)
    first, second = (1 - optim.beta1) * g, (1 - optim.beta2) * g**2
    corrected = first / (1 - optim.beta1), second / (1 - optim.beta2)
    update = corrected[0] / (np.sqrt(corrected[1]) + optim.eps)
    return value * (1 - lr * decay) - lr * update


SETTINGS = {
    "plain": OptimConfig(clip_grad_norm=0.0),
    "multipliers": OptimConfig(
        clip_grad_norm=0.0, embedding_lr_multiplier=0.25, head_lr_multiplier=0.5
    ),
    "decay": OptimConfig(clip_grad_norm=0.0, decay_embeddings=False, decay_norms=True),
    "frozen-tables": OptimConfig(
        clip_grad_norm=0.0, embedding_lr_multiplier=0.0, decay_norms=True, head_lr_multiplier=2.0
    ),
    "offloaded": OptimConfig(clip_grad_norm=0.0, embedding_lr_multiplier=0.25, offload=True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_one_step_is_that_of_a_twin(folder: Path, name: str) -> None:
    optim = SETTINGS[name]
    state = state_of(folder, optim, distributed_optimizer=optim.offload)
    before = values(state)
    gradients = take_step(state, optim)
    for param, after in values(state).items():
        rate, decay = multipliers(param, after.shape, optim)
        expected = adamw_step(
            before[param], gradients[param], lr=LR * rate, decay=decay * optim.weight_decay,
            optim=optim,
        )  # fmt: skip
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-7, err_msg=param)


@pytest.mark.parametrize("name", SETTINGS)
def test_groups_read_back_hold_the_multipliers(folder: Path, name: str) -> None:
    from megacpt.train.optimizer import set_learning_rate

    optim = SETTINGS[name]
    state = state_of(folder, optim, distributed_optimizer=optim.offload)
    set_learning_rate(state.optimizer, lr=LR, optim=optim)
    expected: dict[tuple[float, float], int] = {}
    for param_name, param in named(state).items():
        rate, decay = multipliers(param_name, param.shape, optim)
        key = (LR * rate, optim.weight_decay * decay)
        expected[key] = expected.get(key, 0) + param.numel()
    found = {
        (group["lr"], group["weight_decay"]): sum(p.numel() for p in group["params"])
        for group in state.optimizer.param_groups
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("offload", [False, True])
def test_an_update_is_megatron_cores_own_step(folder: Path, offload: bool, clip: float) -> None:
    """Bit for bit, with the norm known before it; a step that is refused changes nothing."""
    from megacpt.train.step import gradient_norm, update

    optim = OptimConfig(clip_grad_norm=clip, offload=offload)
    whole = state_of(folder, optim, distributed_optimizer=offload)
    take_step(whole, optim)
    state = state_of(folder, optim, distributed_optimizer=offload)
    before, gradients = values(state), draw_gradients(state)
    norm = gradient_norm(state.optimizer)
    assert norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in gradients.values())))
    for name, value in values(state).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    update(state.optimizer, norm=norm, lr=LR, optim=optim)
    for name, value in values(whole).items():
        np.testing.assert_array_equal(values(state)[name], value, err_msg=name)


def test_adamw_runs_in_one_kernel(folder: Path) -> None:
    state = state_of(folder, SETTINGS["plain"])
    assert all(group["fused"] for group in state.optimizer.param_groups)


def test_offloaded_state_is_in_the_host_optimizers(folder: Path) -> None:
    from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

    optim = SETTINGS["offloaded"]
    state = state_of(folder, optim, distributed_optimizer=True)
    take_step(state, optim)
    (part,) = state.optimizer.chained_optimizers
    assert isinstance(part.optimizer, HybridDeviceOptimizer)
    assert part.optimizer.gpu_optimizer is None
    offloaded = sum(p.numel() for o in part.optimizer.cpu_optimizers for p in o.state)
    assert offloaded == sum(p.numel() for p in named(state).values())


def newton_schulz(gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.T if tall else gradient
    x = x / np.linalg.norm(x)
    for a, b, c in NS_COEFFICIENTS:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def muon_update(gradient: npt.NDArray[np.float32], optim: OptimConfig) -> npt.NDArray[np.float64]:
    """Step 1 of Muon with Nesterov momentum, scaled as in equation 4 of arXiv 2502.16982."""
    m = optim.muon.momentum
    g = gradient.astype(np.float64)
    looked_ahead = (1 - m) * g + m * (1 - m) * g
    return 0.2 * np.sqrt(max(g.shape)) * newton_schulz(looked_ahead)


def test_one_step_of_muon_is_that_of_a_twin(folder: Path) -> None:
    pytest.importorskip("emerging_optimizers", reason="optim.optimizer=muon needs it")
    optim = OptimConfig(
        optimizer=Optimizer.muon, muon=MuonConfig(lr_multiplier=0.5), clip_grad_norm=0.0
    )
    state = state_of(folder, optim)
    before = values(state)
    gradients = take_step(state, optim)
    for name, after in values(state).items():
        gradient, start = gradients[name], before[name]
        if gradient.ndim == 1 or "embedding" in name or "output_layer" in name:
            rate, decay = multipliers(name, after.shape, optim)
            expected = adamw_step(
                start, gradient, lr=LR * rate, decay=decay * optim.weight_decay, optim=optim
            )
        else:
            lr = LR * optim.muon.lr_multiplier
            if "linear_qkv" in name:
                update = _of_each_projection(gradient, optim)
            else:
                update = muon_update(gradient, optim)
            expected = start * (1 - lr * optim.weight_decay) - lr * update
        np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-5, err_msg=name)


def _of_each_projection(
    gradient: npt.NDArray[np.float32], optim: OptimConfig
) -> npt.NDArray[np.float64]:
    """Query, key and value rows lie in groups (2 of 2 heads, 1, 1 of 16 rows) and are three
    matrices to Muon."""
    groups = gradient.reshape(2, 4 * 16, 64)
    update = np.empty(groups.shape, dtype=np.float64)
    for rows in (slice(0, 32), slice(32, 48), slice(48, 64)):
        part = groups[:, rows]
        update[:, rows] = muon_update(part.reshape(-1, 64), optim).reshape(part.shape)
    return update.reshape(gradient.shape)
