#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# peft 0.21.2 writes with transformers 4.57.6, and reads with 5.23.0, seen 2026-11-29.
#
# Experts were modules in transformers 4 and are stacked parameters in 5. peft makes an adapter of the
# former one of the latter as it loads it: tensors, rank (gate and up together have twice the rank),
# alpha and targets. Three things are lost, and nothing is said, as no tensor is missing afterwards:
#
# - "gate_proj", "up_proj" and "down_proj" are replaced by the stacked parameters, so shared experts and
#   dense layers, which are modules still, are no targets any more. Their tensors are dropped. GLM-4.5,
#   DeepSeek-V3 and others have both. It is so in a new adapter too, with "all-linear" as well.
# - With use_rslora the scale is alpha / sqrt(rank), and both are doubled: gate and up count for sqrt(2)
#   too much.
# - Qwen2-MoE is the name of the pattern that others are mapped to, and not mapped itself: all tensors of
#   its experts are dropped.
#
# Expected: the same logits from both. Seen, with their largest difference, and what the adapter does:
#   experts alone          differs by 0.00 of 1.83  warnings of lost tensors: 0
#   experts alone, rsLoRA  differs by 2.02 of 3.56  warnings of lost tensors: 0
#   by their names         differs by 5.08 of 4.37  warnings of lost tensors: 0
#   by their names, Qwen2  differs by 3.24 of 4.16  warnings of lost tensors: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > models.py <<'PY'
EXPERTS = [f"experts.{e}.{part}_proj" for e in range(4) for part in ("gate", "up", "down")]
NAMES = ["gate_proj", "up_proj", "down_proj"]
CASES = {
    "experts alone": ("glm4_moe", EXPERTS, False),
    "experts alone, rsLoRA": ("glm4_moe", EXPERTS, True),
    "by their names": ("glm4_moe", NAMES, False),
    "by their names, Qwen2": ("qwen2_moe", NAMES, False),
}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
OWN = {
    "glm4_moe": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 24},
}
PY
cat > write.py <<'PY'
import torch
from models import CASES, OWN, SIZES
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

tokens, wanted = torch.arange(20, 40)[None], {}
for name, (kind, targets, rslora) in CASES.items():
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **OWN[kind])).eval()
    model.save_pretrained(f"{name}/model")
    base = model(tokens).logits.detach()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_rslora=rslora)
    adapted = get_peft_model(model, config)
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(f"{name}/adapter")
    wanted[name] = base, adapted(tokens).logits.detach()
torch.save((tokens, wanted), "wanted.pt")
PY
cat > read.py <<'PY'
import warnings

import torch
from models import CASES
from peft import PeftModel
from transformers import AutoModelForCausalLM

tokens, wanted = torch.load("wanted.pt")
differences = {}
for name in CASES:
    base, expected = wanted[name]
    model = AutoModelForCausalLM.from_pretrained(f"{name}/model").eval()
    assert torch.allclose(model(tokens).logits, base, atol=1e-5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, f"{name}/adapter")
    lost = [str(w.message) for w in said if "missing" in str(w.message).lower()]
    differences[name] = float((adapted(tokens).logits.detach() - expected).abs().max())
    print(
        f"{name:22} differs by {differences[name]:.2f} of {float((base - expected).abs().max()):.2f}"
        f"  warnings of lost tensors: {len(lost)}"
    )
    assert not lost
right, *others = differences.values()
assert right < 1e-4 and min(others) > 0.1
PY
for step in write=4.57.6 read=5.23.0; do
  version=${step#*=}
  python3 -m venv "venv-$version"
  "venv-$version/bin/pip" install -q --disable-pip-version-check "transformers==$version" \
    torch==2.13.0 peft==0.21.2 2>&1 | { grep -v WARNING || true; }
  "venv-$version/bin/python" "${step%=*}.py" 2> log || { cat log; exit 1; }
done
