# SPDX-License-Identifier: Apache-2.0
"""Nothing that a pickle names is imported or called, and plain values come through."""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.checkpoint.stored.pickles import NONE, Inert, read_pickle, type_name
from megacpt.errors import CheckpointError


def through(value: object, *, known: Any = NONE) -> Any:
    stream = io.BytesIO(pickle.dumps(value))
    return read_pickle(stream, path=Path("states.pt"), known=known)


class Touches:
    """Would make a file if it were unpickled as Python does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_functions_are_not_called(tmp_path: Path) -> None:
    path = tmp_path / "touched"
    harmful = pickle.dumps({"a": Touches(path), "b": 2})
    found = read_pickle(io.BytesIO(harmful), path=path, known=NONE)
    assert isinstance(found["a"], Inert)
    assert (found["b"], path.exists()) == (2, False)
    pickle.loads(harmful)
    assert path.exists()


def test_modules_are_not_imported() -> None:
    module = "wsgiref.simple_server"
    sys.modules.pop(module, None)
    content = b"c" + module.encode() + b"\nWSGIServer\n."
    found = read_pickle(io.BytesIO(content), path=Path("states.pt"), known=NONE)
    assert type_name(found) == "wsgiref.simple_server.WSGIServer"
    assert module not in sys.modules


def test_plain_values_come_through() -> None:
    value = OrderedDict(a=torch.Size([2, 3]), b=[torch.bfloat16, None, 1.5], c={"d": ("e", b"f")})
    assert through(value) == value


def test_objects_that_are_not_known_take_whatever_is_done_to_them() -> None:
    from argparse import Namespace
    from collections import defaultdict

    found = through([Namespace(a=1), defaultdict(list, {"a": [1]}), {1, 2}])
    assert [isinstance(value, Inert) for value in found] == [True, True, False]
    assert through(Namespace(a=1), known={("argparse", "Namespace"): Namespace}).a == 1


@pytest.mark.parametrize("content", [b"", b"\x80\x04K", pickle.dumps([1] * 99)[:-20], b"no pickle"])
def test_damage_is_told(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"states\.pt is damaged"):
        read_pickle(io.BytesIO(content), path=Path("states.pt"), known=NONE)
