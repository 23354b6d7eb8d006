#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 5.23.0 without the kernels of fla and causal_conv1d, seen 2026-11-29.
#
# Two documents packed by transformers' own DataCollatorWithFlattening go through a Llama and through a
# Qwen3-Next (Qwen3.5 is the same). A Llama keeps them apart by the positions, which begin anew: that is
# all that the collator gives by default. Of Qwen3-Next's layers one of four does so, too; in the three
# with a gated delta net the second document reads what the first has left in the state and in the
# convolution, and nothing is said. Asked for seq_idx as well, the same layers refuse: without the kernels
# they cannot keep documents apart. With the kernels, too, nets read seq_idx and cu_seq_lens and no
# positions (from the code).
#
# Expected: the logits of the second document are those that it has alone, or an error. Seen, the largest
# difference, and what is said of seq_idx:
#   llama       3.2e-06
#   qwen3_next  7.5e+00
#   qwen3_next with seq_idx: `causal_conv1d_fn` can't keep packed sequences apart without `causal_conv1d`.
#
# megacpt runs delta nets document by document (tests/model/test_cases.py, layouts "packed").
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0 2>&1 |
  { grep -v WARNING || true; }
cat > packed.py <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DataCollatorWithFlattening

SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2,
    "max_position_embeddings": 256, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0,
}
NEXT = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
}
torch.manual_seed(0)
first, second = torch.randint(1, 97, (40,)), torch.randint(1, 97, (30,))
documents = [{"input_ids": ids.tolist()} for ids in (first, second)]
found, refused = {}, []
for model_type, changes in (("llama", {}), ("qwen3_next", NEXT)):
    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **SIZES, **changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        alone = model(input_ids=second[None], use_cache=False).logits[0]
        batch = DataCollatorWithFlattening(return_seq_idx=True)(documents, return_tensors="pt")
        named = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
        logits = model(**named, use_cache=False).logits[0, len(first) :]
        found[model_type] = float((logits - alone).abs().max())
        print(f"{model_type:<11} {found[model_type]:.1e}")
        try:
            model(**named, seq_idx=batch["seq_idx"], use_cache=False)
        except ValueError as error:
            print(f"{model_type} with seq_idx: {error}")
            refused.append(model_type)
assert found["llama"] < 1e-5 < 0.1 < found["qwen3_next"], found
assert refused == ["qwen3_next"], refused
PY
venv/bin/python packed.py 2> log || { cat log; exit 1; }
