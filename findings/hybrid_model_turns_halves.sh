#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# megatron-core 0.19 deprecates GPTModel and asks to move to HybridModel, with the same
# TransformerConfig. GPTModel passes config.rotary_interleaved on to its rotary embedding (GLM and
# Cohere turn neighbouring channels, not halves); HybridModel does not. Its attention reads the
# setting from the config all the same, so channels are paired as neighbours and turned by the angles
# of halves: the two of a pair by different ones, which is no rotation. Scores then depend on where
# two tokens stand and not on how far apart they are. Nothing is refused or logged.
#
# Versions: megatron-core 0.19.2, torch 2.13.0, Python 3.12. Same q and k at every position:
# Seen, the most that a score changes when both tokens move on by one:
#   halves     GPTModel 0.00   HybridModel 0.00
#   neighbours GPTModel 0.00   HybridModel 3.31
# megacpt sets it on the rotary embedding (megacpt/model/layers/attention/rope.py); a test compares
# such models with transformers (tests/model/core/test_hybrid.py).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=python3.12
"$python" -c "" 2> /dev/null || python=$(ls -d "$(pyenv root)"/versions/3.12*/bin/python | tail -1)
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 megatron-core==0.19.2
cat > "$folder/turns.py" <<'PYTHON'
import sys

import torch
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rope_utils import apply_rotary_pos_emb
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec

LENGTH, CHANNELS = 64, 16
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1
)
parallel_state.initialize_model_parallel()
# The number of the GPU, which this machine need not have.
torch.cuda.current_device = lambda: "cpu"
layer = get_gpt_layer_local_spec(normalization="RMSNorm")
stack = ModuleSpec(
    module=HybridStack,
    # Transformer Engine's norm, which is not installed.
    params={"post_layer_norm": False},
    submodules=HybridStackSubmodules(attention_layer=layer),
)
torch.manual_seed(1)
q, k = torch.randn(2, CHANNELS)


def most_changed(model):
    angles = model.rotary_pos_emb(LENGTH)
    turned = [
        apply_rotary_pos_emb(x.expand(LENGTH, 1, 1, CHANNELS), angles, model.config)[:, 0, 0]
        for x in (q, k)
    ]
    scores = turned[0] @ turned[1].T
    return float((scores[1:, 1:] - scores[:-1, :-1]).abs().max())


relative = []
for name, interleaved in (("halves", False), ("neighbours", True)):
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        normalization="RMSNorm",
        use_cpu_initialization=True,
        rotary_interleaved=interleaved,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
    )
    sizes = {"vocab_size": 64, "max_sequence_length": LENGTH, "position_embedding_type": "rope"}
    on_gpt = GPTModel(config, transformer_layer_spec=layer, **sizes)
    on_hybrid = HybridModel(config, hybrid_stack_spec=stack, hybrid_layer_pattern="**", **sizes)
    changes = [most_changed(model) for model in (on_gpt, on_hybrid)]
    print(f"{name:10} GPTModel {changes[0]:.2f}   HybridModel {changes[1]:.2f}")
    relative.append([change < 1e-4 for change in changes])
sys.exit(relative != [[True, True], [True, False]])
PYTHON
"$folder/venv/bin/python" "$folder/turns.py" "$folder" 2> "$folder/log" || { tail -20 "$folder/log"; exit 1; }
