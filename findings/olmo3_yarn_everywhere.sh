#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 4.57.6, 5.9.0 and 5.23.0, seen 2026-11-29.
#
# Of one OLMo 3 folder in the form of transformers 4 (rope_theta and a yarn rope_scaling beside each
# other, as the published models state them) three versions make three models:
#   4.57.6  stretches the layers that see everything; those with a window turn by rope_theta, plainly
#   5.9.0   (as 5.0.0) stretches all of them, those with a window too, and says nothing
#   5.23.0  stretches the right ones, but takes rope_theta from the config for them alone: layers with a
#           window turn by the default 500000, whatever the folder says
# With rope_theta 500000, as published, 4.57.6 and 5.23.0 agree; a model of another theta, or one read by
# a version between, is another model.
#
# Expected: the same logits. Seen, the largest difference from those of 4.57.6:
#   rope_theta 500000   5.9.0 4.13e+00  5.23.0 0.00e+00
#   rope_theta 10000    5.9.0 4.41e+00  5.23.0 4.40e+00
#
# megacpt reads such a folder as 4 does and states both rotations in an export
# (tests/families/test_shapes.py, tests/convert/test_described.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > write.py <<'PY'
import json
from pathlib import Path

import torch
from transformers import Olmo3Config, Olmo3ForCausalLM

for theta in (500000.0, 10000.0):
    torch.manual_seed(0)
    folder = Path(f"theta-{theta:.0f}")
    config = Olmo3Config(
        vocab_size=97, hidden_size=48, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=256, sliding_window=32, rope_theta=theta,
        rope_scaling={
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32,
        },
        initializer_range=0.2, pad_token_id=None, eos_token_id=0, bos_token_id=0,
    )
    Olmo3ForCausalLM(config).save_pretrained(folder)
    stated = json.loads((folder / "config.json").read_text())
    assert stated["rope_theta"] == theta and stated["rope_scaling"]["rope_type"] == "yarn"
PY
cat > read.py <<'PY'
from pathlib import Path

import torch
import transformers

for folder in sorted(Path().glob("theta-*")):
    if folder.is_dir():
        model = transformers.Olmo3ForCausalLM.from_pretrained(folder, attn_implementation="eager")
        tokens = torch.arange(96)[None]
        with torch.no_grad():
            torch.save(model.eval()(tokens).logits, f"{folder}-{transformers.__version__}.pt")
PY
cat > compare.py <<'PY'
import torch

agree = set()
for theta in (500000, 10000):
    four, *five = (torch.load(f"theta-{theta}-{v}.pt") for v in ("4.57.6", "5.9.0", "5.23.0"))
    away = [float((logits - four).abs().max()) for logits in five]
    print(f"rope_theta {theta:<8} 5.9.0 {away[0]:.2e}  5.23.0 {away[1]:.2e}")
    agree |= {(theta, n) for n, difference in enumerate(away) if difference < 1e-4}
assert agree == {(500000, 1)}, agree
PY
for version in 4.57.6 5.9.0 5.23.0; do
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install -q --disable-pip-version-check torch==2.13.0 \
    "transformers==$version" 2>&1 | { grep -v WARNING || true; }
  if [ "$version" = 4.57.6 ]; then
    "venv-$version/bin/python" write.py 2> log || { cat log; exit 1; }
  fi
  "venv-$version/bin/python" read.py 2> log || { cat log; exit 1; }
done
venv-5.23.0/bin/python compare.py
