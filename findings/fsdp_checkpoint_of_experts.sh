#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# transformers 4.57.6 writes, 5.23.0 reads, torch 2.13.0 (torch.distributed.checkpoint), Python 3.11,
# seen 2026-11-29.
#
# transformers 5 holds the experts of a layer as two tensors, experts.gate_up_proj and
# experts.down_proj, where 4 has three matrices for each expert. from_pretrained and save_pretrained
# translate, so Hugging Face folders are the same in both. state_dict() does not, and that is what FSDP
# users save with torch.distributed.checkpoint. So a run that was saved under 4 cannot go on under 5:
# the same model, the same config.json, and its experts are missing from the checkpoint. With
# allow_partial_load, which one sets to take in a checkpoint with a tensor less, the experts stay
# random and nothing is said.
#
# Expected: the weights that were saved, as for a dense model. Seen:
#   qwen3      strict: the same logits                partial: the same logits
#   qwen3_moe  strict: Missing key in checkpoint      partial: other logits, nothing said
#   mixtral    strict: Missing key in checkpoint      partial: other logits, nothing said
#
# megacpt convert reads the checkpoints of both (tests/convert/foreign/test_fsdp.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > common.py <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=0)
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
KINDS = {"qwen3": {"head_dim": 8}, "qwen3_moe": EXPERTS | {"head_dim": 8}, "mixtral": EXPERTS}


def model(kind, seed):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, initializer_range=0.3, **SIZES, **KINDS[kind])
    return AutoModelForCausalLM.from_config(config).float().eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(16)[None]).logits
PY
cat > write.py <<'PY'
import torch
import torch.distributed.checkpoint as dcp
from common import KINDS, logits, model

for kind in KINDS:
    written = model(kind, seed=1)
    dcp.save(written.state_dict(), checkpoint_id=kind)
    torch.save(logits(written), f"{kind}.pt")
PY
cat > read.py <<'PY'
import torch
import torch.distributed.checkpoint as dcp
from common import KINDS, logits, model
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.api import CheckpointException


def load(kind, *, partial):
    fresh = model(kind, seed=2)
    state = fresh.state_dict()
    try:
        dcp.load(state, checkpoint_id=kind, planner=DefaultLoadPlanner(allow_partial_load=partial))
    except CheckpointException as error:  # a BaseException
        assert "Missing key in checkpoint state_dict" in str(error), error
        assert ".experts." in str(error), error
        return "Missing key in checkpoint"
    fresh.load_state_dict(state)
    same = torch.allclose(logits(fresh), torch.load(f"{kind}.pt"), atol=1e-4)
    return "the same logits" if same else "other logits, nothing said"


seen = {kind: (load(kind, partial=False), load(kind, partial=True)) for kind in KINDS}
for kind, (strict, partial) in seen.items():
    print(f"{kind:10} strict: {strict:30} partial: {partial}")
experts = ("Missing key in checkpoint", "other logits, nothing said")
same = ("the same logits",) * 2
assert list(seen.values()) == [same, experts, experts], seen
PY
pip="venv/bin/pip install -q --disable-pip-version-check"
python3 -m venv venv
{
  $pip torch==2.13.0 numpy transformers==4.57.6
  # Put before the others, it shares torch with 4.
  $pip --target five transformers==5.23.0
} 2>&1 | { grep -v "WARNING\|ERROR\|requires" || true; }
export OMP_NUM_THREADS=1
venv/bin/python -W ignore write.py > log 2>&1 || { cat log; exit 1; }
PYTHONPATH=five venv/bin/python -W ignore read.py
