#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# megatron-core 0.16.1, torch 2.13.0, Python 3.11, seen 2026-11-29.
#
# Experts may have biases (gpt-oss), on ranks that tensor parallelism shares with attention: each rank
# then holds whole experts of its own (expert_tensor_parallel_size=1). The layer after the activation
# marks its bias as one that all tensor-parallel ranks have, because with sequence parallelism each of
# them sees other tokens; that it belongs to an expert is not looked at. So at the end of the backward
# pass the gradients of this bias are summed over the ranks, which are gradients of different experts:
# each expert's bias learns from all experts' tokens. Weights and the bias before the activation are
# not touched, losses look as they should, and nothing is raised. The norm of all gradients counts this
# bias on the first rank alone besides, as that of one that all ranks have.
#
# Expected: an expert's bias has the gradient of its own tokens, here 3 and 4 of them. Seen:
#   expert 0 on rank 0: 3 tokens, gradient 3 before, 7 after finishing
#   expert 1 on rank 1: 4 tokens, gradient 4 before, 7 after finishing
#
# megacpt takes the mark away (megacpt/model/layers/experts.py); tests/model/test_cases.py compares
# such gradients with those of transformers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > grads.py <<'PY'
import os
import sys
import warnings

warnings.filterwarnings("ignore")
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import _allreduce_non_tensor_model_parallel_grads
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection

LAYOUT = dict(
    tensor_model_parallel_size=2, expert_model_parallel_size=2, expert_tensor_parallel_size=1
)


def run(rank):
    dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meet", rank=rank, world_size=2)
    parallel_state.initialize_model_parallel(**LAYOUT)
    config = TransformerConfig(
        num_layers=1, hidden_size=8, num_attention_heads=2, num_moe_experts=2, moe_ffn_hidden_size=8,
        add_bias_linear=True, sequence_parallel=True, use_cpu_initialization=True,
        bias_activation_fusion=False, **LAYOUT,
    )
    submodules = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    expert = SequentialMLP(1, config, submodules, pg_collection=get_default_pg_collection())
    expert.ddp_config = DistributedDataParallelConfig()
    tokens = 3 + rank
    out, _ = expert(torch.ones(tokens, 8), torch.tensor([tokens]), torch.ones(tokens))
    out.sum().backward()
    for parameter in expert.parameters():
        parameter.main_grad = parameter.grad
    bias = expert.local_experts[0].linear_fc2.bias
    before = float(bias.main_grad[0])
    _allreduce_non_tensor_model_parallel_grads([expert], config)
    after = float(bias.main_grad[0])
    said = f"expert {rank} on rank {rank}: {tokens} tokens, gradient {before:g} before, {after:g} after finishing"
    found = [None, None]
    dist.all_gather_object(found, (said, before == tokens, after == 7.0))
    if rank == 0:
        print("\n".join(line for line, *_ in found))
    dist.destroy_process_group()
    sys.exit(not all(all(rest) for _, *rest in found))


if __name__ == "__main__":
    torch.multiprocessing.spawn(run, nprocs=2)
PY
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 megatron-core==0.16.1 numpy
venv/bin/python grads.py 2> log || { cat log; echo "no longer so"; exit 1; }
