#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0 (not 5.0.0, not 4.57.6), tokenizers 0.23.3, seen 2026-11-29.
#
# AutoTokenizer reads a folder whose config.json says `model_type: qwen2` with Qwen2Tokenizer, whatever
# class tokenizer_config.json names, PreTrainedTokenizerFast and its own TokenizersBackend included. It
# takes the vocabulary and merges from tokenizer.json and builds the rest anew: Qwen's pre-tokenizer
# (digits apart, another pattern) replaces the one that is stored, and an id for <|endoftext|> that the
# model has no row for is added. So a Qwen2-shaped model with a tokenizer of its own (a Qwen2
# architecture trained from nothing, or with another vocabulary) gets other ids than it was trained
# with, and no warning. The same folder as `qwen3` or `llama` is read right.
#
# Expected: qwen2 reads the ids that tokenizer.json gives, as the others do. Seen:
#   5.23.0 llama  TokenizersBackend  same ids: True   added ids: 0
#   5.23.0 qwen2  Qwen2Tokenizer     same ids: False  added ids: 1
#   5.23.0 qwen3  TokenizersBackend  same ids: True   added ids: 0
#   5.0.0 llama   TokenizersBackend  same ids: True   added ids: 0
#   5.0.0 qwen2   TokenizersBackend  same ids: True   added ids: 0
#   5.0.0 qwen3   TokenizersBackend  same ids: True   added ids: 0
#
# megacpt encodes with tokenizer.json as it is stored.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > read.py <<'PY'
import json
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

stored = Tokenizer(models.BPE())
stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
trainer = trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=["<eos>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
)
stored.train_from_iterator(["from 1999 to 2024"] * 50, trainer)
text = "from 1999 to 2024"
found = {}
for model_type in ("llama", "qwen2", "qwen3"):
    folder = Path(model_type)
    folder.mkdir(exist_ok=True)
    stored.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    read = AutoTokenizer.from_pretrained(folder)
    same = read(text)["input_ids"] == stored.encode(text).ids
    added = len(read) - stored.get_vocab_size()
    print(f"{transformers.__version__} {model_type:6} {type(read).__name__:18} "
          f"same ids: {same!s:6} added ids: {added}")
    found[model_type] = (same, added)
right = (True, 0)
qwen2 = (False, 1) if transformers.__version__ == "5.23.0" else right
assert found == {"llama": right, "qwen2": qwen2, "qwen3": right}, found
PY
for version in 5.23.0 5.0.0; do
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install -q --disable-pip-version-check "transformers==$version" \
    2>&1 | { grep -v WARNING || true; }
  "venv-$version/bin/python" read.py 2> log || { cat log; exit 1; }
done
