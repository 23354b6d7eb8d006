#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0 (tokenizers 0.23.3) beside transformers 4.57.3 (tokenizers 0.22), Python 3.11.
#
# A folder whose tokenizer.json splits digits from each other and then uses GPT-2's pattern, and whose
# tokenizer_config.json names "GPT2Tokenizer" (so are SmolLM and SmolLM2 published). transformers 4
# takes tokenizer.json as it is. transformers 5 takes its vocabulary and merges, and builds everything
# else anew as the named class has it: digits are no longer apart, and nothing is said. A folder of
# LlamaTokenizer that transformers 4 converted itself changes likewise, where a text begins with a
# blank. With "PreTrainedTokenizerFast" both read the file as it is.
#
# Seen:
#   digits, GPT2Tokenizer: 4.57.3 ['in', 'Ġ', '1', '2', '3']    5.23.0 ['in', 'Ġ123']
#   digits, PreTrainedTokenizerFast: 4.57.3 ['in', 'Ġ', '1', '2', '3']    5.23.0 ['in', 'Ġ', '1', '2', '3']
#   blank, LlamaTokenizer: 4.57.3 ['▁▁', 'a']    5.23.0 ['▁', 'a']
#   blank, PreTrainedTokenizerFast: 4.57.3 ['▁▁', 'a']    5.23.0 ['▁▁', 'a']
#
# megacpt refuses such a folder by name (tests/tokenizer/test_auto_tokenizer.py).

set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv four && four/bin/pip install -q transformers==4.57.3
python3 -m venv five && five/bin/pip install -q transformers==5.23.0 tokenizers==0.23.3
cat > make.py <<'PY'
import json, os
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers as pre

def save(name, tokenizer, kind, **config):
    os.mkdir(name)
    tokenizer.save(f"{name}/tokenizer.json")
    with open(f"{name}/tokenizer_config.json", "w") as file:
        json.dump({"tokenizer_class": kind, **config}, file)
    with open(f"{name}/config.json", "w") as file:
        json.dump({"model_type": "llama"}, file)

letters = sorted(pre.ByteLevel.alphabet())
merges = [("1", "2"), ("12", "3"), ("Ġ", "123"), ("i", "n")]
vocabulary = {piece: n for n, piece in enumerate([*letters, *("".join(pair) for pair in merges)])}
vocabulary["<|endoftext|>"] = len(vocabulary)
digits = Tokenizer(models.BPE(vocabulary, merges))
digits.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
digits.decoder = decoders.ByteLevel()
digits.add_special_tokens(["<|endoftext|>"])

pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "a", "▁▁"]
blank = Tokenizer(models.BPE({p: n for n, p in enumerate(pieces)}, [("▁", "▁")], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
blank.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
blank.add_special_tokens(["<unk>", "<s>", "</s>"])
for kind in ("GPT2Tokenizer", "PreTrainedTokenizerFast"):
    save(f"digits, {kind}", digits, kind, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>")
for kind in ("LlamaTokenizer", "PreTrainedTokenizerFast"):
    save(f"blank, {kind}", blank, kind, eos_token="</s>", bos_token="<s>", unk_token="<unk>")
PY
cat > read.py <<'PY'
import sys, transformers
folder = sys.argv[1]
text = "in 123" if folder.startswith("digits") else " a"
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text, add_special_tokens=False)["input_ids"]
print(transformers.__version__, tokenizer.convert_ids_to_tokens(ids))
PY
five/bin/python make.py
for folder in "digits, GPT2Tokenizer" "digits, PreTrainedTokenizerFast" "blank, LlamaTokenizer" "blank, PreTrainedTokenizerFast"; do
  echo "$folder: $(four/bin/python read.py "$folder" 2>/dev/null)    $(five/bin/python read.py "$folder" 2>/dev/null)"
done | tee seen.txt
cat > expected.txt <<'TXT'
digits, GPT2Tokenizer: 4.57.3 ['in', 'Ġ', '1', '2', '3']    5.23.0 ['in', 'Ġ123']
digits, PreTrainedTokenizerFast: 4.57.3 ['in', 'Ġ', '1', '2', '3']    5.23.0 ['in', 'Ġ', '1', '2', '3']
blank, LlamaTokenizer: 4.57.3 ['▁▁', 'a']    5.23.0 ['▁', 'a']
blank, PreTrainedTokenizerFast: 4.57.3 ['▁▁', 'a']    5.23.0 ['▁▁', 'a']
TXT
cmp seen.txt expected.txt
