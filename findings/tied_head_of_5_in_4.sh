#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0 writes, 4.57.6 reads, seen 2026-11-29.
#
# Whether the head of a Mistral 3 model (text and images) is the embedding stands in two places of its
# config.json: on top, which transformers 5 goes by and where the default is true, and in text_config,
# which 4 goes by and where the default is false. save_pretrained of 5 writes out both defaults, so that
# a tied model says "tie_word_embeddings": true on top and false inside, and it stores no lm_head. 4
# takes it for untied, finds no head and draws one at random: all else of the model is right, a warning
# is logged, and the logits are noise. With true in both places they are those of 5.
#
# Expected: the same logits from both. Seen, with their largest difference:
#   as 5.23.0 writes it  on top: True, inside: False  4.57.6 lacks: ['lm_head.weight']  differs by 5.85
#   true in both places  on top: True, inside: True   4.57.6 lacks: []                  differs by 0.00
#
# megacpt exports such a folder with the same in both places (tests/convert/test_readers.py), and reads
# the first form as tied (tests/families/stored/test_nested.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > write.py <<'PY'
import torch
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
text = {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64}
vision = {"model_type": "pixtral", "head_dim": 16, "image_size": 16, "patch_size": 8}
config = Mistral3Config(text_config=sizes | text, vision_config=sizes | vision)
config.text_config.initializer_range = 0.2
torch.manual_seed(1)
model = Mistral3ForConditionalGeneration(config).eval()
model.save_pretrained("model")
tokens = torch.arange(20, 40)[None]
torch.save({"tokens": tokens, "logits": model(tokens).logits.detach()}, "wanted.pt")
PY
cat > read.py <<'PY'
import json
from pathlib import Path

import torch
from transformers import Mistral3ForConditionalGeneration

path, wanted = Path("model/config.json"), torch.load("wanted.pt")
stated = json.loads(path.read_text())
lacking = {}
for name in ("as 5.23.0 writes it", "true in both places"):
    if name.startswith("true"):
        stated["text_config"]["tie_word_embeddings"] = True
        path.write_text(json.dumps(stated))
    torch.manual_seed(2)
    model, found = Mistral3ForConditionalGeneration.from_pretrained("model", output_loading_info=True)
    logits = model.eval()(input_ids=wanted["tokens"]).logits
    places = [values["tie_word_embeddings"] for values in (stated, stated["text_config"])]
    lacking[name] = list(found["missing_keys"]), float((logits - wanted["logits"]).abs().max())
    print(
        f"{name}  on top: {places[0]}, inside: {places[1]!s:5}  4.57.6 lacks: "
        f"{lacking[name][0]!s:18}  differs by {lacking[name][1]:.2f}"
    )
(heads, noise), (none, equal) = lacking.values()
assert (heads, none) == (["lm_head.weight"], [])
assert noise > 0.1 and equal < 1e-4
PY
for step in write=5.23.0 read=4.57.6; do
  version=${step#*=}
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install -q --disable-pip-version-check "transformers==$version" \
    torch==2.13.0 pillow 2>&1 | { grep -v WARNING || true; }
  "venv-$version/bin/python" "${step%=*}.py" 2> log || { cat log; exit 1; }
done
