# SPDX-License-Identifier: Apache-2.0
"""Which weights were asked: a digest of those that the ranks hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import xxhash
from torch.distributed.tensor import DTensor


def weights_digest(chunks: Sequence[Any], *, arithmetic: str) -> str:
    """The same on every rank; a collective call. Another layout holds other parts, and so has
    another digest, unless it differs in how many ranks hold the same alone. ``arithmetic``: the
    precision in words."""
    own = xxhash.xxh3_128(arithmetic.encode())
    for chunk in chunks:
        for name, tensor in chain(chunk.named_parameters(), chunk.named_buffers()):
            # Training wraps what evaluation has bare.
            own.update(name.replace("module.", "").encode())
            own.update(_bytes(tensor.detach()))
    found: list[str] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own.hexdigest())
    return str(xxhash.xxh3_128_hexdigest("".join(dict.fromkeys(found)).encode()))


def _bytes(tensor: torch.Tensor) -> memoryview:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    content: memoryview = local.contiguous().view(-1).view(torch.uint8).cpu().numpy().data
    return content
