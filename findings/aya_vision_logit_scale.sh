#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 4.51.3, 4.57.6 and 5.23.0, seen 2026-11-29.
#
# Aya Vision is SigLIP and Cohere 2. Cohere 2 multiplies its logits by logit_scale (1/16 unless its
# config.json says otherwise). AyaVisionForConditionalGeneration of 4.51 called the whole text model,
# scale and all; since models of several parts have their head on top, the class takes the head alone
# and leaves the scale out. On text alone the logits are now those of the text model times 16: the most
# likely token is the same, but losses, perplexities and everything drawn at a temperature are others.
# logit_scale still stands in text_config and is still read, by nobody.
#
# Expected: of one set of weights the same logits from the text model and from the whole on text. Seen:
#   4.51.3  whole / text model: 1.0
#   4.57.6  whole / text model: 16.0
#   5.23.0  whole / text model: 16.0
#
# megacpt refuses aya_vision by name: what it would export could not be compared.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > compare.py <<'PY'
import sys

import torch
import transformers
from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration
from transformers import Cohere2Config, Cohere2ForCausalLM

sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
text = Cohere2Config(**sizes, num_key_value_heads=2, vocab_size=64, pad_token_id=0, eos_token_id=2)
vision = {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, **sizes}
torch.manual_seed(1)
whole = AyaVisionForConditionalGeneration(
    AyaVisionConfig(text_config=text.to_dict(), vision_config=vision)
).eval()
alone = Cohere2ForCausalLM(text).eval()
for parameter in whole.parameters():
    parameter.data.normal_(0.0, 0.1)
# Names moved between the versions; what stands behind language_model did not, nor behind model.
held = {
    name.split("language_model.")[1].removeprefix("model."): values
    for name, values in whole.state_dict().items()
    if "language_model." in name
}
for name, values in alone.model.state_dict().items():
    values.copy_(held[name])
tokens = torch.arange(20, 40)[None]
with torch.no_grad():
    ratio = (whole(input_ids=tokens).logits / alone(input_ids=tokens).logits).median().item()
print(f"{transformers.__version__}  whole / text model: {ratio:.1f}")
assert abs(ratio - float(sys.argv[1])) < 1e-3
PY
for step in 4.51.3=1 4.57.6=16 5.23.0=16; do
  version=${step%=*}
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install -q --disable-pip-version-check "transformers==$version" \
    torch==2.13.0 pillow 2>&1 | { grep -v WARNING || true; }
  "venv-$version/bin/python" compare.py "${step#*=}" 2> log || { cat log; exit 1; }
done
