# SPDX-License-Identifier: Apache-2.0
"""On a rank of the tests of layouts: score the questions and continue the prompts with the model of
WORK_DIR/model in each layout; what each rank found goes to a file, as it must be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from megacpt.families import read_architecture
from tests.evaluate.benchmarks.chunks_on_ranks import chunks_in
from tests.evaluate.benchmarks.prompts import DRAWN, WRITING, decode, prompts
from tests.evaluate.benchmarks.questions import MAX_LENGTH, texts
from tests.rank import rank_on_cpu


def write_scores(work: Path, layouts: dict[str, dict[str, Any]]) -> None:
    with rank_on_cpu(timeout_minutes=10) as started:
        from megacpt.evaluate.benchmarks.engine import Engine
        from megacpt.evaluate.benchmarks.fingerprint import weights_digest

        folder = work / "model"
        given = {"folder": folder, "architecture": read_architecture(folder), "runtime": started}
        for name, layout in layouts.items():
            with chunks_in(layout, sequence_length=64, **given) as chunks:
                engine = Engine.over(chunks, max_length=MAX_LENGTH, decode=decode)
                found = engine.score(texts(), tokens_a_pass=200)
                written = engine.write(prompts(), writing=WRITING)
                drawn = engine.write(prompts(), writing=DRAWN)
                digest = weights_digest(chunks, arithmetic="fp32")
            file = work / f"{name}-{started.ranks.rank}.json"
            file.write_bytes(orjson.dumps([engine.takes_branches, digest, found, written, drawn]))
