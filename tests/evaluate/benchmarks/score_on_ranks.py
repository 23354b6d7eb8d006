# SPDX-License-Identifier: Apache-2.0
"""On a rank of the tests of layouts: score the questions and continue the prompts with the model of
WORK_DIR/model in each layout; what each rank found goes to a file, as it must be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.evaluate.benchmarks.prompts import DRAWN, WRITING, decode, prompts
from tests.evaluate.benchmarks.questions import MAX_LENGTH, texts
from tests.rank import rank_on_cpu


def write_scores(work: Path, layouts: dict[str, dict[str, Any]]) -> None:
    with rank_on_cpu(timeout_minutes=10) as started:
        from megatron.core import parallel_state

        from megacpt.config.sections import (
            DeviceKind,
            Dtype,
            ParallelConfig,
            PrecisionConfig,
        )
        from megacpt.device.groups import initialise_parallel
        from megacpt.evaluate.benchmarks.engine import Engine
        from megacpt.evaluate.benchmarks.fingerprint import weights_digest
        from megacpt.families import read_architecture
        from megacpt.model.build import build_model
        from megacpt.model.chunks import wrap_for_forward
        from megacpt.model.weights import load_hf

        for name, fields in layouts.items():
            parallel, precision = ParallelConfig(**fields), PrecisionConfig(dtype=Dtype.fp32)
            initialise_parallel(parallel, seed=1)
            architecture = read_architecture(work / "model")
            chunks = build_model(
                architecture,
                parallel=parallel,
                precision=precision,
                kind=DeviceKind.cpu,
                sequence_length=64,
            )
            load_hf(chunks, folder=work / "model", architecture=architecture)
            chunks = wrap_for_forward(
                chunks, parallel=parallel, precision=precision, device=started.device
            )
            engine = Engine.over(chunks, max_length=MAX_LENGTH, decode=decode)
            found = engine.score(texts(), tokens_a_pass=200)
            written = engine.write(prompts(), writing=WRITING)
            drawn = engine.write(prompts(), writing=DRAWN)
            digest = weights_digest(chunks, arithmetic="fp32")
            file = work / f"{name}-{started.ranks.rank}.json"
            file.write_bytes(orjson.dumps([engine.takes_branches, digest, found, written, drawn]))
            parallel_state.destroy_model_parallel()
