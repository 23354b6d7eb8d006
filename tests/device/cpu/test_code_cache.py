# SPDX-License-Identifier: Apache-2.0
"""A cache entry is found exactly as long as it is true."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megacpt.device.cpu.code_cache import CodeCache, default_folder


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "source.py"
    path.write_text("value = 1\n")
    return str(path)


def code_of(source: str) -> object:
    return compile(Path(source).read_text(), source, "exec")


def filled(folder: Path, source: str) -> CodeCache:
    cache = CodeCache(folder, maker=b"1")
    cache.store(source, code=compile(Path(source).read_text(), source, "exec"))
    return cache


def test_what_was_stored_is_loaded(tmp_path: Path, source: str) -> None:
    assert filled(tmp_path / "cache", source).load(source) == code_of(source)


def test_nothing_was_stored(tmp_path: Path, source: str) -> None:
    assert CodeCache(tmp_path / "cache", maker=b"1").load(source) is None


def test_a_changed_source_is_not_found(tmp_path: Path, source: str) -> None:
    cache = filled(tmp_path / "cache", source)
    with open(source, "a") as file:
        file.write("other = 2\n")
    assert cache.load(source) is None


def test_a_source_of_another_time_is_not_found(tmp_path: Path, source: str) -> None:
    cache = filled(tmp_path / "cache", source)
    os.utime(source, ns=(1, 1))
    assert cache.load(source) is None


def test_another_maker_finds_nothing(tmp_path: Path, source: str) -> None:
    filled(tmp_path / "cache", source)
    assert CodeCache(tmp_path / "cache", maker=b"2").load(source) is None


def test_a_new_entry_takes_the_place_of_the_old(tmp_path: Path, source: str) -> None:
    filled(tmp_path / "cache", source)
    os.utime(source, ns=(1, 1))
    assert filled(tmp_path / "cache", source).load(source) == code_of(source)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_every_cut_and_every_flipped_byte_is_noticed(tmp_path: Path, source: str) -> None:
    cache = filled(tmp_path / "cache", source)
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    for index in range(len(whole)):
        entry.write_bytes(whole[:index])
        assert cache.load(source) is None
        flipped = bytes([whole[index] ^ 1])
        entry.write_bytes(whole[:index] + flipped + whole[index + 1 :])
        assert cache.load(source) is None


def test_an_unusable_folder_is_no_error(tmp_path: Path, source: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert filled(tmp_path / "file", source).load(source) is None


def test_no_folder_is_no_error(source: str) -> None:
    cache = CodeCache(None, maker=b"1")
    cache.store(source, code=compile("", source, "exec"))
    assert cache.load(source) is None


def test_writers_may_race(tmp_path: Path, source: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        caches = list(pool.map(lambda _: filled(tmp_path / "cache", source), range(64)))
    assert all(cache.load(source) == code_of(source) for cache in caches)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/megacpt/megatron-core-cpu"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/megacpt/megatron-core-cpu"),
        ({"XDG_CACHE_HOME": "not/absolute", "HOME": "/h"}, None),
    ],
)
def test_folder_follows_the_environment(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_folder() == (Path(expected) if expected else None)
