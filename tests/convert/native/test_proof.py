# SPDX-License-Identifier: Apache-2.0
"""Files are compared with their checksums by what is read of them, in whatever order that is."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import xxhash

from megacpt.checkpoint.manifest import CheckpointManifest, FileSum
from megacpt.convert.native import proof
from megacpt.convert.native.proof import Proof
from megacpt.errors import CheckpointError, ModelError
from tests.convert.support import count_reads

CONTENT = random.Random(1).randbytes(50_000)
STEP = 1000
STARTS = list(range(2000, 49_000, STEP))
ORDERS = {
    "in order": STARTS,
    "with gaps": STARTS[::3],
    "backwards": STARTS[::-1],
    "shuffled": random.Random(2).sample(STARTS, k=len(STARTS)),
    "twice": [*STARTS, *STARTS],
    "overlapping": [start + shift for start in STARTS[:-1] for shift in (0, 300)],
    "the end alone": STARTS[-1:],
    "not at all": [],
}


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    monkeypatch.setattr(proof, "READ_BYTES", 700)
    monkeypatch.setattr(proof, "GAP_BYTES", 9000)
    monkeypatch.setattr(proof, "TAIL_BYTES", 1500)
    return count_reads(monkeypatch)


def proof_of(folder: Path, *, contents: dict[str, bytes]) -> Proof:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    sums = {
        name: FileSum(bytes=len(content), xxh128=xxhash.xxh3_128_hexdigest(content))
        for name, content in contents.items()
    }
    rest: Any = dict.fromkeys(
        ("data", "tokens_per_source", "base_heldout", "heldout", "faults", "architecture", "layout")
    )
    manifest = CheckpointManifest(step=0, start=0, elapsed_s=0.0, files=sums, **rest)
    return Proof(folder, manifest=manifest)


def read(
    found: Proof, *, starts: list[int], name: str = "weights", come: list[int] | None = None
) -> None:
    file = found.file(name)
    for start in starts:
        out = bytearray(STEP)
        file.read(memoryview(out), at=start, what="w")
        assert out == file.path.read_bytes()[start : start + STEP]
        if come is not None:
            come.append(start)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("flipped", [None, 0, 2000, 25_500, 48_500, 49_999])
def test_any_order_finds_any_change(
    order: str, flipped: int | None, tmp_path: Path, read_bytes: Counter[str]
) -> None:
    found = proof_of(tmp_path, contents={"weights": CONTENT, "empty": b""})
    found.file("weights").hold(["a", "b", "c"], num_bytes=47_000)
    if flipped is not None:
        changed = bytearray(CONTENT)
        changed[flipped] ^= 1
        (tmp_path / "weights").write_bytes(changed)
        with pytest.raises(CheckpointError) as caught, found.proving():
            read(found, starts=ORDERS[order])
        assert str(caught.value) == (
            f"{tmp_path} is damaged: weights has other contents than were written (its checksum "
            "differs); it holds a and 2 more; bring it back from a copy."
        )
        return
    for _ in range(2):
        read_bytes.clear()
        with found.proving():
            read(found, starts=ORDERS[order])
        asked = STEP * len(ORDERS[order])
        assert read_bytes["weights"] <= asked + len(CONTENT)
        if order == "in order":
            assert read_bytes["weights"] == len(CONTENT)


def test_files_of_other_things_are_read_beside(tmp_path: Path, read_bytes: Counter[str]) -> None:
    contents = {"weights": CONTENT, "optimizer": CONTENT, "common.pt": b"x"}
    found = proof_of(tmp_path, contents=contents)
    found.file("weights").hold(["a"], num_bytes=47_000)
    found.file("optimizer").hold(["b"], num_bytes=9_000)
    with found.proving():
        read(found, starts=STARTS)
        read(found, starts=STARTS[:9], name="optimizer")
    assert read_bytes["weights"] == len(CONTENT)
    assert read_bytes["optimizer"] == len(CONTENT) + 9 * STEP
    for name in ("optimizer", "common.pt"):
        (tmp_path / name).write_bytes(contents[name][:-1] + b"!")
        with pytest.raises(CheckpointError, match=f"is damaged: {name} has"), found.proving():
            read(found, starts=STARTS)
        (tmp_path / name).write_bytes(contents[name])


def test_damage_is_found_as_soon_as_its_file_is_read(
    tmp_path: Path, read_bytes: Counter[str]
) -> None:
    found = proof_of(tmp_path, contents={"weights": CONTENT})
    found.file("weights").hold(["a"], num_bytes=47_000)
    (tmp_path / "weights").write_bytes(CONTENT[:-1] + b"!")
    come: list[int] = []
    with pytest.raises(CheckpointError, match="is damaged: weights"), found.proving():
        read(found, starts=[*STARTS, 0], come=come)
    assert come == STARTS[:-1]


def test_a_file_that_has_become_shorter_is_named(tmp_path: Path) -> None:
    found = proof_of(tmp_path, contents={"weights": CONTENT})
    (tmp_path / "weights").write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match="weights ends within what was written"), found.proving():
        pass


def test_a_file_that_no_sum_is_known_of(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"places weights in __9_0.distcp, of which"):
        proof_of(tmp_path, contents={}).file("__9_0.distcp")


def test_an_error_elsewhere_ends_the_reading(tmp_path: Path, read_bytes: Counter[str]) -> None:
    found = proof_of(tmp_path, contents={"weights": CONTENT})
    found.file("weights").hold(["a"], num_bytes=47_000)
    with pytest.raises(ValueError, match="elsewhere"), found.proving():
        raise ValueError("elsewhere")
    assert read_bytes["weights"] == 0
