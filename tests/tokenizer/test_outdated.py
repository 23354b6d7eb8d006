# SPDX-License-Identifier: Apache-2.0
"""A tokenizer.json that is known to be wrong is refused wherever it lies, and so are its shards."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from megacpt.errors import ModelError
from megacpt.shards.manifest import require_current_tokenizer, require_tokenizer
from megacpt.shards.tokenize import tokenize
from megacpt.tokenizer import load_tokenizer, outdated

TINY = Path(__file__).parents[2] / "configs" / "model" / "tiny"


def test_folders_files_and_shards_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shutil.copytree(TINY, tmp_path / "old")
    content = json.dumps(json.loads((old / "tokenizer.json").read_text()), indent=1)
    (old / "tokenizer.json").write_text(content)
    (tmp_path / "a.jsonl").write_text('{"text": "a law"}\n')
    tokenize([tmp_path / "a.jsonl"], tokenizer=old, output_prefix=tmp_path / "a")
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    manifest = json.loads((tmp_path / "a.json").read_text()) | {"tokenizer_fingerprint": sha256}
    (tmp_path / "a.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(outdated, "QUICKSTART", sha256)
    for path in (old, old / "tokenizer.json", shutil.copytree(old, tmp_path / "export")):
        with pytest.raises(ModelError, match=rf"{path}.* earlier megacpt's quickstart.*make quick"):
            load_tokenizer(path)
    fingerprint = load_tokenizer(TINY).fingerprint
    with pytest.raises(ModelError, match=rf"token shard {tmp_path / 'a'} was written with is that"):
        require_tokenizer(tmp_path / "a", fingerprint=fingerprint, owner=str(TINY))
    with pytest.raises(ModelError, match=rf"token shard {tmp_path / 'a'} was written with is that"):
        require_current_tokenizer(tmp_path / "a")
    tokenize([tmp_path / "a.jsonl"], tokenizer=TINY, output_prefix=tmp_path / "a")
    require_tokenizer(tmp_path / "a", fingerprint=fingerprint, owner=str(TINY))
    require_current_tokenizer(tmp_path / "a")
