# SPDX-License-Identifier: Apache-2.0
"""What is known survives whatever ends the process."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from megacpt.errors import DataError, EnvironmentError_
from megacpt.evaluate.journal import AnswerJournal, key_of


def test_a_kill_at_any_byte_loses_the_unfinished_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "j.jsonl"
    values = {"a": "één\n", "b": 0.5, "c": ["x"]}
    journal = AnswerJournal(path)
    for key, value in values.items():
        journal.put(key, value=value)
    journal.close()
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        again = AnswerJournal(path)
        known = {key: again.get(key) for key in values if again.get(key) is not None}
        assert known == dict(list(values.items())[: content[:cut].count(b"\n")])
        for key, value in values.items():
            if key not in known:
                again.put(key, value=value)
        again.close()
        assert path.read_bytes() == content


def test_a_disk_that_is_full_is_told_by_what_was_to_be_written(tmp_path: Path) -> None:
    """Closing the file tries to write it again."""
    journal = AnswerJournal(tmp_path / "j.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1]))
    try:
        with pytest.raises(EnvironmentError_, match=r"j\.jsonl cannot be written: .*; free some"):
            journal.put("a", value="long enough")
        journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = AnswerJournal(tmp_path / "j.jsonl")
    assert again.get("a") is None
    again.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"key": "a", "value": 1}\n{"prompt": 1}\n')
    with pytest.raises(DataError, match=r"j\.jsonl:2 is no line of a journal"):
        AnswerJournal(path)


def test_keys_are_of_all_that_is_asked() -> None:
    assert key_of("m", {"a": 1, "b": 2}) == key_of("m", {"b": 2, "a": 1})
    assert len({key_of("m", "a"), key_of("ma"), key_of("m", ["a"]), key_of("n", "a")}) == 4
