#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Where the layers of a model have several rotary embeddings (rope_parameters by layer type: OLMo 3,
# Gemma 3), transformers does not see that one of them says "truncate": false. All else of yarn is read
# from the layer type's own parameters, truncate from the object around them, where it never is.
# gpt-oss, whose only rope says so, is read as written.
#
# Versions: transformers 5.23.0, torch 2.13.0.
# Seen:
#   one rope            as written: True   off by at most 0.0%
#   a rope a layer type as written: False  off by at most 14.8%
# Nothing is said and nothing fails. megacpt reads truncate where it stands
# (megacpt/families/hf_config.py); such an export's certificate then shows how transformers differs.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON'
import math
import sys

import torch
from transformers import LlamaConfig, Olmo3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

THETA, FACTOR, LENGTH, CHANNELS = 1e4, 8.0, 1024, 128
yarn = {
    "rope_type": "yarn",
    "rope_theta": THETA,
    "factor": FACTOR,
    "original_max_position_embeddings": LENGTH,
    "truncate": False,
}
sizes = {"hidden_size": 256, "num_attention_heads": 2, "max_position_embeddings": 8192}


def place(turns):
    return CHANNELS * math.log(LENGTH / (turns * 2 * math.pi)) / (2 * math.log(THETA))


# The ramp between the unrounded channels, as the parameters ask for it.
low, high = place(32), place(1)
ramp = ((torch.arange(CHANNELS // 2) - low) / (high - low)).clamp(0, 1)
powers = THETA ** (torch.arange(0, CHANNELS, 2) / CHANNELS)
wanted = ramp / (FACTOR * powers) + (1 - ramp) / powers

read = ROPE_INIT_FUNCTIONS["yarn"]
local = {"rope_type": "default", "rope_theta": THETA}
one, _ = read(LlamaConfig(**sizes, rope_parameters=dict(yarn)), None)
several = {"full_attention": dict(yarn), "sliding_attention": local}
config = Olmo3Config(**sizes, rope_parameters=several)
by_layer, _ = read(config, None, layer_type="full_attention")
exact = []
for name, found in (("one rope", one), ("a rope a layer type", by_layer)):
    off = float((found / wanted - 1).abs().max())
    exact.append(off < 1e-5)
    print(f"{name:19} as written: {exact[-1]!s:5}  off by at most {off:.1%}")
sys.exit(exact != [True, False])
PYTHON
