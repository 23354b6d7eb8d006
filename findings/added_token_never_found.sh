#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# tokenizers 0.23.3, transformers 5.23.0, fastokens 0.3.5, Python 3.11.
#
# "<|im_start|>" is a special token. add_tokens(["<|im_start|>user"]) gives the longer text an id, says
# that 1 token was added, and a text that is exactly this token does not become it: what add_tokens
# makes of a string is "normalized", and tokenizers looks for those only in what is left between the
# tokens that are not. (An AddedToken with normalized=False is found: of one kind the longest wins.)
# fastokens reads the same tokenizer.json and looks for all at once: it finds the longer one.
#
# Seen:
#   added 1 vocabulary has it True
#   tokenizers  ['<|im_start|>', 'u', 's', 'e', 'r']
#   fastokens   ['<|im_start|>user']
#   normalized=False  ['<|im_start|>user']
#
# megacpt encodes with tokenizers where tokens may overlap so (tests/tokenizer/test_fast.py).

set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv && venv/bin/pip install -q transformers==5.23.0 tokenizers==0.23.3 fastokens==0.3.5
cat > run.py <<'PY'
import fastokens
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

def made():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.add_special_tokens(["<|im_start|>"])
    return PreTrainedTokenizerFast(tokenizer_object=plain)

one, text = made(), "<|im_start|>user"
print("added", one.add_tokens([text]), "vocabulary has it", text in one.get_vocab())
print("tokenizers ", one.tokenize(text))
other = fastokens.Tokenizer.from_json_str(one.backend_tokenizer.to_str())
print("fastokens  ", one.convert_ids_to_tokens(other.encode(text).ids))
third = made()
third.add_tokens([AddedToken(text, normalized=False)])
print("normalized=False ", third.tokenize(text))
PY
venv/bin/python run.py 2>/dev/null | tee seen.txt
cat > expected.txt <<'TXT'
added 1 vocabulary has it True
tokenizers  ['<|im_start|>', 'u', 's', 'e', 'r']
fastokens   ['<|im_start|>user']
normalized=False  ['<|im_start|>user']
TXT
cmp seen.txt expected.txt
