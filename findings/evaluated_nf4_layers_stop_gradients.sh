#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bitsandbytes 0.50.2, peft 0.21.2, transformers 5.23.0, accelerate 1.15.0, torch 2.13.0, Python 3.11,
# on a CPU with AVX-512 for bfloat16, seen 2026-11-29.
#
# QLoRA on a CPU with an evaluation in the middle: a model in NF4 is trained, evaluated (eval(), no_grad)
# and trained on. The first forward pass of that evaluation rewrites each Linear4bit's weight for an
# inference kernel, scales rounded to bfloat16, and nothing writes it back when train() is called. The
# layer then goes on with the inference kernel, which has no derivative: of its input it passes no
# gradient at all. Adapters of earlier layers learn from what residual connections carry past the frozen
# matrices, and from nothing else. Nothing is raised; torch warns once.
#
# Expected: the same gradients of the same batch before and after an evaluation, in which no weight is
# updated. Seen, the norms of all gradients of the adapters by layer:
#   layer 0: 0.56 before, 0.10 after
#   layer 1: 0.33 before, 0.16 after
#
# megacpt's own product of a packed weight has one form (megacpt/model/frozen/product.py);
# tests/model/frozen compares it with Linear4bit in training mode.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > gradients.py <<'PY'
import sys
import warnings

warnings.filterwarnings("ignore")
import torch
from bitsandbytes.functional import has_avx512bf16
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

if not has_avx512bf16():
    sys.exit("this CPU has no AVX-512 for bfloat16, without which there is no such kernel")
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, initializer_range=0.1,
)
LlamaForCausalLM(config).save_pretrained("model")
model = AutoModelForCausalLM.from_pretrained(
    "model",
    dtype=torch.bfloat16,
    device_map="cpu",
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    ),
)
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
tokens = torch.randint(0, 96, (2, 32), generator=torch.Generator().manual_seed(1))


def gradients():
    model.train()
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    squares = [0.0, 0.0]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            squares["layers.1." in name] += float(parameter.grad.float().square().sum())
    return [square**0.5 for square in squares]


before = gradients()
repeated = gradients()
model.eval()
with torch.no_grad():
    model(tokens)
after = gradients()
for layer in (0, 1):
    print(f"layer {layer}: {before[layer]:.2f} before, {after[layer]:.2f} after")
sys.exit(not (repeated == before and after[0] < 0.7 * before[0]))
PY
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 bitsandbytes==0.50.2 peft==0.21.2 transformers==5.23.0 \
    accelerate==1.15.0
venv/bin/python gradients.py 2> log || { cat log; echo "no longer so"; exit 1; }
