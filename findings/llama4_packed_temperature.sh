#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0, torch 2.13.0, Python 3.11, float32 on a CPU.
#
# Two documents in one row, with position_ids that start again at the second (the form in which
# padding-free trainers pack): transformers tells the documents apart, and of Llama 4 the mask, the
# chunks of attention_chunk_size and the rotation count from the start of each document. The queries
# of layers without positions grow with the place in the row all the same
# (attn_temperature_tuning): the second document gets other logits than alone. Ministral 3, whose
# queries grow by the same formula, gives those of the document alone.
#
# Seen (largest difference of a logit from that of the document alone, first and second document):
#   llama4_text, attn_temperature_tuning=False  0.000 0.000
#   llama4_text, attn_temperature_tuning=True   0.000 0.328
#   ministral3                                  0.000 0.000
#
# megacpt counts from the start of the document (tests/family_cases/llama4.py, layout "packed").

set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cat > run.py <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "initializer_range": 0.2,
}
LLAMA4 = {"num_local_experts": 2, "attention_chunk_size": 16, "floor_scale": 8, "attn_scale": 0.5}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 8,
    "llama_4_scaling_beta": 0.5,
}

def differences(model_type, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES, **more)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    documents = [torch.randint(97, (1, 40)), torch.randint(97, (1, 50))]
    positions = torch.cat([torch.arange(40), torch.arange(50)])[None]
    with torch.no_grad():
        alone = [model(tokens, use_cache=False).logits for tokens in documents]
        row = torch.cat(documents, dim=1)
        packed = model(row, position_ids=positions, use_cache=False).logits.split([40, 50], dim=1)
    return [float((a - b).abs().max()) for a, b in zip(alone, packed)]

for name, found in (
    ("llama4_text, attn_temperature_tuning=False ",
     differences("llama4_text", attn_temperature_tuning=False, **LLAMA4)),
    ("llama4_text, attn_temperature_tuning=True  ", differences("llama4_text", **LLAMA4)),
    ("ministral3                                 ",
     differences("ministral3", rope_parameters=YARN)),
):
    print(name, *(f"{difference:.3f}" for difference in found))
PY
venv/bin/python run.py 2>/dev/null | tee seen.txt
awk '{ same = ($NF < 0.001); wanted = !/=True/; if (same != wanted || $(NF-1) > 0.001) exit 1 }
     END { exit NR != 3 }' seen.txt
