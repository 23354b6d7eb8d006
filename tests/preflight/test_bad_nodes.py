# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from megacpt.preflight import bad_nodes


def test_nodes_are_added_on_top_and_taken_off_when_they_pass(tmp_path: Path) -> None:
    assert bad_nodes.hosts_to_exclude(tmp_path) == []
    bad_nodes.record(tmp_path, bad={"a": ["slow"]}, good=[], time=1.0, job="7")
    bad_nodes.record(tmp_path, bad={"b": ["full", "odd"]}, good=["c"], time=2.0, job=None)
    assert bad_nodes.hosts_to_exclude(tmp_path) == ["b", "a"]
    assert bad_nodes.read(tmp_path)[0].reasons == ["full", "odd"]
    bad_nodes.record(tmp_path, bad={}, good=["b"], time=3.0, job=None)
    assert bad_nodes.hosts_to_exclude(tmp_path) == ["a"]
    bad_nodes.record(tmp_path, bad={}, good=["a"], time=4.0, job=None)
    assert list(tmp_path.iterdir()) == []
