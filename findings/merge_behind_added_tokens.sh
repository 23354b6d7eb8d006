#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# tokenizers 0.23.3, transformers 5.23.0, Python 3.11.
#
# A tokenizer.json as Qwen's: the vocabulary has the ids 0 to 255, "<|end|>" is an added token with the
# "id" 256. Continued by one merge ("th") whose token takes the next free id, 257, the file is read
# without a word, but "<|end|>" is 257: an added token that is not in the model's vocabulary is numbered
# by the size of that vocabulary, and its "id" in the file is not looked at. So two tokens have one id,
# no token has 256, and AutoTokenizer's eos_token_id is that of "th": every "th" would end a text.
# With "<|end|>" in the vocabulary as well it keeps its id.
#
# Seen:
#   tokenizers    <|end|> 257 th 257 'th<|end|>' [257, 257] id 256 is None
#   transformers  eos_token_id 257
#   in the vocabulary as well: [257, 256]
#
# megacpt vocabulary writes added tokens there (megacpt/vocabulary/growth.py,
# tests/vocabulary/test_growth.py).

set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv && venv/bin/pip install -q transformers==5.23.0 tokenizers==0.23.3
cat > run.py <<'PY'
import json
import pathlib

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
plain = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
plain.add_special_tokens([AddedToken("<|end|>")])
stated = json.loads(plain.to_str())
assert stated["added_tokens"][0]["id"] == 256
stated["model"]["vocab"]["th"] = 257
stated["model"]["merges"].append(["t", "h"])

text = "th<|end|>"
one = Tokenizer.from_str(json.dumps(stated))
ids = (one.token_to_id("<|end|>"), one.token_to_id("th"))
print("tokenizers    <|end|>", ids[0], "th", ids[1], repr(text), one.encode(text).ids,
      "id 256 is", one.id_to_token(256))
folder = pathlib.Path("folder")
folder.mkdir()
(folder / "tokenizer.json").write_text(json.dumps(stated))
config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
(folder / "tokenizer_config.json").write_text(json.dumps(config))
print("transformers  eos_token_id", AutoTokenizer.from_pretrained("folder").eos_token_id)
stated["model"]["vocab"]["<|end|>"] = 256
one = Tokenizer.from_str(json.dumps(stated))
print("in the vocabulary as well:", one.encode(text).ids)
PY
venv/bin/python run.py 2>/dev/null | tee seen.txt
cat > expected.txt <<'TXT'
tokenizers    <|end|> 257 th 257 'th<|end|>' [257, 257] id 256 is None
transformers  eos_token_id 257
in the vocabulary as well: [257, 256]
TXT
cmp seen.txt expected.txt
