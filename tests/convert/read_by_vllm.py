# SPDX-License-Identifier: Apache-2.0
"""What vLLM makes of exports: ``python read_by_vllm.py JOB.json``.

Run with vLLM on the path (tools/install_readers.py), which loads and serves each folder on the CPU.
The job names the folders, the tokens after which the logarithms of the next token's probabilities
are asked for, and the file that takes what was found.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # It has no kernels for compressed keys on a CPU, and computes DeepSeek as others do.
    "VLLM_MLA_DISABLE": "1",
}
if torch.version.cuda is None:
    # The package index's torchvision is CUDA's and finds no operators then; a text needs none.
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
from vllm import LLM, SamplingParams
from vllm.model_executor.models import registry


def read(folder: str, *, tokens: list[int]) -> dict[str, Any]:
    """``refused``: what vLLM has said against it."""
    try:
        model = LLM(
            model=folder,
            dtype="bfloat16" if has_delta_nets(folder) else "float32",
            enforce_eager=True,
            # Its compiled rotation gets the shared keys of DeepSeek wrong on a CPU.
            compilation_config={"custom_ops": ["none"]},
            skip_tokenizer_init=True,
            max_model_len=128,
            max_num_seqs=1,
            max_logprobs=-1,
            # Chunks of Llama 4 hold whole blocks.
            block_size=32,
            kv_cache_memory_bytes=1 << 26,
        )
        return {"log_probabilities": log_probabilities(model, tokens=tokens)}
    except Exception as error:  # noqa: BLE001 - whatever it says is the answer
        return {"refused": f"{type(error).__name__}: {error}"}


def has_delta_nets(folder: str) -> bool:
    """Which it computes in half precision alone on a CPU."""
    config = json.loads((Path(folder) / "config.json").read_text())
    return "linear_attention" in config.get("layer_types", [])


def log_probabilities(model: LLM, *, tokens: list[int]) -> list[float]:
    """Of each token of the vocabulary, in its order."""
    asked = SamplingParams(max_tokens=1, logprobs=-1, detokenize=False)
    (answer,) = model.generate([{"prompt_token_ids": tokens}], asked, use_tqdm=False)
    (found,) = answer.outputs[0].logprobs
    return [found[number].logprob for number in range(len(found))]


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    # It would look at each class in another process, which takes ten seconds.
    registry._run_in_subprocess = lambda look: look()
    found = {}
    for folder in job["folders"]:
        found[folder] = read(folder, tokens=job["tokens"])
        gc.collect()
    Path(job["output"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
