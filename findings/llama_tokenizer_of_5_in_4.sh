#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0 writes, 4.57.6 reads, seen 2026-11-29.
#
# transformers 5 keeps what a LlamaTokenizer puts before and after a text in tokenizer.json alone
# (post_processor) and no longer writes add_bos_token and add_eos_token to tokenizer_config.json. 4 takes
# a tokenizer_config.json without them for "add_bos_token: true, add_eos_token: false" and replaces the
# stored post-processor accordingly. So of the same folder 4 puts BOS before texts that 5 begins
# without, and leaves out the EOS with which 5 ends them, and says nothing. With tokenizer_class
# PreTrainedTokenizerFast both read the file as it is.
#
# Expected: the same ids from both. Seen, for "ab":
#   add_bos=False add_eos=False  5.23.0: [4]        4.57.6: [1, 4]  as PreTrainedTokenizerFast: [4]
#   add_bos=True  add_eos=True   5.23.0: [1, 4, 2]  4.57.6: [1, 4]  as PreTrainedTokenizerFast: [1, 4, 2]
#
# megacpt exports such a folder with PreTrainedTokenizerFast (tests/convert/test_readers.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > write.py <<'PY'
import json
from pathlib import Path

from transformers import AutoTokenizer, LlamaTokenizer

vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁a": 3, "▁ab": 4, "▁": 5, "a": 6, "b": 7}
merges = [("▁", "a"), ("▁a", "b")]
for begins, ends in ((False, False), (True, True)):
    folder = Path(f"add_bos={begins!s:5} add_eos={ends!s:5}")
    tokenizer = LlamaTokenizer(
        vocab=vocabulary, merges=merges, add_bos_token=begins, add_eos_token=ends
    )
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "ids.json").write_text(json.dumps(AutoTokenizer.from_pretrained(folder)("ab").input_ids))
PY
cat > read.py <<'PY'
import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

for folder, wrong in zip(sorted(Path().glob("add_bos*")), ([1, 4], [1, 4]), strict=True):
    written = json.loads((folder / "ids.json").read_text())
    read = AutoTokenizer.from_pretrained(folder)("ab").input_ids
    plain = PreTrainedTokenizerFast.from_pretrained(folder)("ab").input_ids
    print(f"{folder}  5.23.0: {written}  4.57.6: {read}  as PreTrainedTokenizerFast: {plain}")
    assert (read, plain) == (wrong, written) and read != written
PY
for step in write=5.23.0 read=4.57.6; do
  version=${step#*=}
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install -q --disable-pip-version-check "transformers==$version" \
    2>&1 | { grep -v WARNING || true; }
  "venv-$version/bin/python" "${step%=*}.py" 2> log || { cat log; exit 1; }
done
