# SPDX-License-Identifier: Apache-2.0
"""The device of a process that is no rank: a model of transformers on one GPU or the CPU."""

from __future__ import annotations

import torch

from megacpt.config.sections import DeviceKind
from megacpt.device.cpu import bf16_products
from megacpt.errors import EnvironmentError_


def single_device(asked: DeviceKind) -> torch.device:
    """``auto``: the first GPU that torch can use, else the CPU."""
    has_gpu = torch.cuda.is_available()
    if asked is DeviceKind.gpu and not has_gpu:
        raise EnvironmentError_(
            "the device gpu needs a GPU that torch can use, and it sees none; check nvidia-smi "
            "and CUDA_VISIBLE_DEVICES, or choose the device cpu."
        )
    if has_gpu and asked is not DeviceKind.cpu:
        return torch.device("cuda", 0)
    bf16_products.install()
    return torch.device("cpu")
