# SPDX-License-Identifier: Apache-2.0
"""A dry run says what the conversion then does, and leaves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megacpt.convert import estimate as estimates
from megacpt.convert.conversion import Conversion, Form, convert
from megacpt.convert.estimate import estimate
from megacpt.convert.native import writer
from megacpt.convert.opened import open_source
from megacpt.errors import EnvironmentError_
from tests.convert.test_conversion import interrupt, stored
from tests.llama_cases import write_llama


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_llama(tmp_path / "base")
    return tmp_path / "base"


def conversion_of(source: Path, *, form: Form, to: str = "made/here") -> Conversion:
    return Conversion(source=open_source(source), form=form, destination=source.parent / to)


@pytest.mark.parametrize("sample", [1, 2**25])
def test_it_is_what_is_written_then(
    sample: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FILE_BYTES", 40_000)
    monkeypatch.setattr(estimates, "SAMPLE_BYTES", sample)
    convert(conversion_of(base, form=Form.native, to="native"))
    for source, form in (("base", Form.native), ("native", Form.hf)):
        conversion = conversion_of(tmp_path / source, form=form)
        before = sorted(tmp_path.rglob("*"))
        found = estimate(conversion)
        assert sorted(tmp_path.rglob("*")) == before
        made = convert(conversion)
        assert (found.bytes, found.files) == (made.bytes, made.files)
        assert found.left_bytes == found.bytes
        assert found.read_bytes == sum(t.nbytes for t in stored(base).values())
        assert 0 < found.sample_bytes <= found.bytes
        assert found.seconds == pytest.approx(found.bytes * found.sample_s / found.sample_bytes)
        shutil.rmtree(tmp_path / "made")


def test_it_goes_on_where_an_earlier_start_has_ended(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FILE_BYTES", 40_000)
    interrupt(base, tmp_path / "made", form=Form.native, after_bytes=200_000)
    conversion = conversion_of(base, form=Form.native, to="made")
    found = estimate(conversion)
    made = convert(conversion)
    assert 0 < found.left_bytes == made.bytes - made.resumed_bytes < found.bytes


def test_it_refuses_what_the_conversion_refuses(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvironmentError_, match="nothing is written over"):
        estimate(conversion_of(base, form=Form.hf, to="base"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(EnvironmentError_, match=r"has 100.0 kB free, and \d+\.\d kB are to be"):
        estimate(conversion_of(base, form=Form.native))
