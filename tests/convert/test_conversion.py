# SPDX-License-Identifier: Apache-2.0
"""What is converted is the same model: to transformers, to megatron-core, and bit for bit."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megacpt.checkpoint.manifest import MANIFEST
from megacpt.config.sections import DeviceKind, Dtype, ParallelConfig, PrecisionConfig
from megacpt.convert.conversion import Conversion, Converted, Form, convert, partial_folder
from megacpt.convert.native import proof, writer
from megacpt.convert.opened import open_source
from megacpt.errors import CheckpointError, EnvironmentError_, ModelError
from megacpt.families import read_architecture
from tests.convert.support import count_reads
from tests.family_cases import cases
from tests.llama_cases import write_llama

# What is drawn has the same tensors in other sizes.
CASES = {name: case for name, case in cases().items() if not name.startswith("varied-")}
FIRST = {case.model_type: name for name, case in reversed(CASES.items())}
"""One of each family; the others are slow together."""


def to_native(source: Path, destination: Path, **wanted: Any) -> Converted:
    conversion = Conversion(
        source=open_source(source), form=Form.native, destination=destination, **wanted
    )
    return convert(conversion)


def to_hf(source: Path, destination: Path, **wanted: Any) -> Converted:
    conversion = Conversion(
        source=open_source(source), form=Form.hf, destination=destination, **wanted
    )
    return convert(conversion)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}


def assert_same(folder: Path, *, base: Path) -> None:
    ours, theirs = stored(folder), stored(base)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_llama(tmp_path / "base", num_key_value_heads=2)
    return tmp_path / "base"


@pytest.mark.mcore
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in FIRST.values() else pytest.mark.slow)
        for case in CASES
    ],
)
def test_megatron_core_loads_the_model_and_back_are_the_same_bits(
    case: str, tmp_path: Path, one_rank: None
) -> None:
    """Its own keys and shapes, and the values that ``load_hf`` puts into the model."""
    from megacpt.checkpoint.state import load_model
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    CASES[case].write(tmp_path / "base")
    before = snapshot(tmp_path / "base")
    to_native(tmp_path / "base", tmp_path / "native")
    architecture = read_architecture(tmp_path / "base")
    wanted, found = (
        build_model(
            architecture,
            parallel=ParallelConfig(),
            precision=PrecisionConfig(dtype=Dtype.fp32),
            kind=DeviceKind.cpu,
            sequence_length=32,
        )
        for _ in range(2)
    )
    load_hf(wanted, folder=tmp_path / "base", architecture=architecture)
    for parameter in found[0].parameters():
        parameter.data.fill_(float("nan"))
    load_model(tmp_path / "native", chunks=found)
    for (name, ours), theirs in zip(
        found[0].named_parameters(), wanted[0].parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    to_hf(tmp_path / "native", tmp_path / "hf")
    assert_same(tmp_path / "hf", base=tmp_path / "base")
    assert snapshot(tmp_path / "base") == before


@pytest.mark.mcore
def test_blocks_of_any_shape_are_read(base: Path, tmp_path: Path, one_rank: None) -> None:
    """Successive elements, as ZeRO-3 deals them out: rows broken in the middle."""
    from megacpt.checkpoint.writer.saver import save_now
    from megacpt.model.blocks import blocks_of, place_elements
    from megacpt.model.build import build_model
    from megacpt.model.weights import load_hf

    to_native(base, tmp_path / "native")
    architecture = read_architecture(base)
    (chunk,) = build_model(
        architecture,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(dtype=Dtype.fp32),
        kind=DeviceKind.cpu,
        sequence_length=32,
    )
    load_hf([chunk], folder=base, architecture=architecture)
    rows, state = blocks_of(chunk).of_params, {}
    for name, parameter in chunk.named_parameters():
        values = parameter.detach().view(-1)
        cuts = [0, values.numel() // 3 + 1, values.numel() // 2 + 5, values.numel()]
        for first, end in pairwise(cuts):
            blocks = place_elements(values[first:end], first=first, rows=rows[name])
            state |= {f"{name}.{first}.{n}": block for n, block in enumerate(blocks)}
    for path in (tmp_path / "native").iterdir():
        if path.is_file() and path.name != MANIFEST:
            path.unlink()
    save_now(tmp_path / "native", state=state)
    sign_again(tmp_path / "native")
    to_hf(tmp_path / "native", tmp_path / "hf")
    assert_same(tmp_path / "hf", base=base)


def sign_again(folder: Path) -> None:
    """Make the manifest that of the files that are there."""
    from dataclasses import replace

    from megacpt.checkpoint.manifest import CheckpointManifest
    from megacpt.checkpoint.verify import sums_of

    replace(CheckpointManifest.read(folder), files=sums_of(folder)).write(folder)


def test_the_type_asked_for(base: Path, tmp_path: Path) -> None:
    to_native(base, tmp_path / "native", dtype=Dtype.bf16)
    to_hf(tmp_path / "native", tmp_path / "hf")
    to_hf(base, tmp_path / "direct", dtype=Dtype.bf16)
    assert_same(tmp_path / "hf", base=tmp_path / "direct")
    theirs = stored(base)
    for name, tensor in stored(tmp_path / "hf").items():
        assert torch.equal(tensor, theirs[name].bfloat16())
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_source_s_own_files(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "whole")
    model.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    to_native(tmp_path / "base", tmp_path / "native")
    to_hf(tmp_path / "native", tmp_path / "hf")
    indexes = [
        json.loads((tmp_path / name / "model.safetensors.index.json").read_text())["weight_map"]
        for name in ("base", "hf")
    ]
    assert indexes[0] == indexes[1]
    assert len(set(indexes[0].values())) > 3
    for name in sorted(set(indexes[0].values())):
        ours, theirs = (load_file(tmp_path / f / name) for f in ("hf", "base"))
        assert ours.keys() == theirs.keys()
    assert_same(tmp_path / "hf", base=tmp_path / "base")


def test_files_of_the_size_asked_for(base: Path, tmp_path: Path) -> None:
    to_native(base, tmp_path / "native")
    to_hf(tmp_path / "native", tmp_path / "hf", shard_bytes_max=100_000)
    sizes = [path.stat().st_size for path in (tmp_path / "hf").glob("*.safetensors")]
    assert len(sizes) > 3
    assert max(sizes) < 110_000
    assert_same(tmp_path / "hf", base=base)


def interrupt(source: Path, destination: Path, *, form: Form, after_bytes: int) -> None:
    """The conversion in a process that is gone once so much is written and a file is finished."""
    process = os.fork()
    if process == 0:

        def progress(done: int, total: int, /) -> None:
            names = (path.suffix for path in partial_folder(destination).iterdir())
            finished = not {".safetensors", ".distcp"}.isdisjoint(names)
            if done > after_bytes and finished:
                os._exit(9)

        convert(
            Conversion(source=open_source(source), form=form, destination=destination),
            progress=progress,
        )
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 9


@pytest.mark.parametrize("form", Form)
def test_killed_it_leaves_nothing_that_looks_whole_and_resumes(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FILE_BYTES", 40_000)
    write_llama(tmp_path / "whole").save_pretrained(tmp_path / "hf", max_shard_size="60KB")
    to_native(tmp_path / "hf", tmp_path / "native")
    source = tmp_path / ("hf" if form is Form.native else "native")
    made = tmp_path / "made"
    interrupt(source, made, form=form, after_bytes=200_000)
    assert not made.exists()
    left = {path.name for path in partial_folder(made).iterdir()}
    assert MANIFEST not in left
    assert "config.json" not in left
    again = (to_native if form is Form.native else to_hf)(source, made)
    assert 0 < again.resumed_bytes < again.bytes
    assert not partial_folder(made).exists()
    if form is Form.native:
        to_hf(made, tmp_path / "back")
        assert_same(tmp_path / "back", base=tmp_path / "hf")
    else:
        assert_same(made, base=tmp_path / "hf")


@pytest.mark.parametrize("change", ["dtype", "source"])
def test_another_conversion_begins_anew(
    change: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FILE_BYTES", 40_000)
    interrupt(base, tmp_path / "made", form=Form.native, after_bytes=200_000)
    if change == "source":
        os.utime(base / "model.safetensors", ns=(1, 1))
    dtype = Dtype.bf16 if change == "dtype" else None
    assert to_native(base, tmp_path / "made", dtype=dtype).resumed_bytes == 0


def test_one_process_at_a_time(base: Path, tmp_path: Path) -> None:
    partial_folder(tmp_path / "made").mkdir()
    with (partial_folder(tmp_path / "made") / "conversion.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentError_, match="made is being written by another process"):
            to_native(base, tmp_path / "made")


def test_room_is_asked_for_first(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(
        EnvironmentError_, match=r"has 100.0 kB free, and \d+\.\d kB are to be written; make room"
    ):
        to_native(base, tmp_path / "native")
    assert not (tmp_path / "native").exists()


def test_nothing_is_written_into_the_source(base: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(base)
    for inside in (base / "native", tmp_path / "link" / "native"):
        with pytest.raises(EnvironmentError_, match=r"lies in \S*base, which is only"):
            to_native(base, inside)
    assert not (base / "native").exists()


def test_nothing_is_written_over(base: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("years of work")
    with pytest.raises(EnvironmentError_, match="there exists, and nothing is written over"):
        to_native(base, tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint_is_refused(base: Path, tmp_path: Path) -> None:
    to_native(base, tmp_path / "native")
    path = tmp_path / "native" / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: __0_0\.distcp has other contents"):
        to_hf(tmp_path / "native", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_folder_cut_short_is_refused(base: Path, tmp_path: Path) -> None:
    path = base / "model.safetensors"
    source = open_source(base)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model.safetensors ends within \S+; it has been cut"):
        convert(Conversion(source=source, form=Form.native, destination=tmp_path / "native"))
    assert not (tmp_path / "native").exists()
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        open_source(base)


def test_the_disk_gives_each_byte_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums take the bytes as they are read for the weights; of the groups of keys and values
    that lie between those of queries, again some."""
    write_llama(tmp_path / "base", hidden_size=96, num_key_value_heads=2)
    to_native(tmp_path / "base", tmp_path / "native")
    conversion = Conversion(
        source=open_source(tmp_path / "native"), form=Form.hf, destination=tmp_path / "hf"
    )
    monkeypatch.setattr(proof, "TAIL_BYTES", 2000)
    read = count_reads(monkeypatch)
    convert(conversion)
    size = (tmp_path / "native" / "__0_0.distcp").stat().st_size
    keys_and_values = sum(
        t.nbytes for n, t in stored(tmp_path / "base").items() if "k_proj" in n or "v_proj" in n
    )
    assert size <= read["__0_0.distcp"] < size + keys_and_values
    assert_same(tmp_path / "hf", base=tmp_path / "base")


def test_what_a_damaged_checkpoint_has_become_is_not_gone_on_from(
    base: Path, tmp_path: Path
) -> None:
    """What came wrong once may come right the next time, when what was made of it is there."""
    to_native(base, tmp_path / "native")
    path = tmp_path / "native" / "__0_0.distcp"
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"it holds model\.embed_tokens\.weight and 38 more;"):
        to_hf(tmp_path / "native", tmp_path / "hf")
    assert not partial_folder(tmp_path / "hf").exists()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert to_hf(tmp_path / "native", tmp_path / "hf").resumed_bytes == 0
    assert_same(tmp_path / "hf", base=base)
