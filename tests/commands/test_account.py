# SPDX-License-Identifier: Apache-2.0
"""What a tokenization did, in lines for people: nothing that did not happen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megacpt.commands.account import account
from megacpt.shards.manifest import BackendRecord
from tests.corpus.cases import make, write_jsonl


def test_only_what_happened_is_told(tmp_path: Path) -> None:
    manifest = make([write_jsonl(tmp_path / "a.jsonl", ["ab", "c"])], tmp_path / "out")
    plain = BackendRecord(name="tokenizers 1.0", documents=2)
    lines = account(replace(manifest, backends=(plain,)), output="out", elapsed_s=0.5)
    assert lines == [
        "Wrote 2 documents, 5 tokens of 29 bytes in 0.5 s (58 bytes/s):",
        "  out.bin, out.idx, out.json",
        "  by tokenizers 1.0",
    ]


def test_all_that_may_happen_is_told(tmp_path: Path) -> None:
    manifest = make([write_jsonl(tmp_path / "a.jsonl", ["ab", "c"])], tmp_path / "out")
    full = replace(
        manifest,
        errors={"no_key": 2, "oversized": 1},
        on_error="quarantine",
        empty_documents=4,
        long_documents=1,
    )
    told = "\n".join(account(full, output="out", elapsed_s=1.0))
    assert "3 bad lines left out (2 no_key, 1 oversized); they are in out.quarantine.jsonl" in told
    assert "4 empty documents left out" in told
    assert "1 documents have more than 100,000 tokens each" in told
    skipped = "\n".join(account(replace(full, on_error="skip"), output="out", elapsed_s=1.0))
    assert "quarantine" not in skipped
