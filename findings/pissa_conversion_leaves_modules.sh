#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# peft 0.21.2, transformers 5.23.0, seen 2026-11-29.
#
# PiSSA trains on a changed base. save_pretrained can write it as a LoRA of the unchanged one, by the
# difference to the adapter as it began (path_initial_model_for_weight_conversion). That keeps lora_A and
# lora_B alone: a whole embedding that was trained beside (modules_to_save), as one does for another
# language, is not in the file, while the configuration still names it. No warning says so when it is
# written, and loading ends with a bare KeyError, after the run. Written as PiSSA, the folder has all
# tensors; but with a randomised decomposition (pissa_niter_4) the reader draws another one, whose
# residual is not the one that was trained on, so what it loads is another model.
#
# Expected: what was trained, from each folder. Seen, as the largest difference of logits:
#   pissa          as PiSSA: 0.00 of 1.27 by training  as LoRA: KeyError 'base_model[...].embed_tokens.weight'
#   pissa_niter_4  as PiSSA: 0.15 of 1.26 by training  as LoRA: KeyError 'base_model[...].embed_tokens.weight'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > convert.py <<'PY'
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(1)
sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained("base")
tokens = torch.arange(20, 40)[None]


def base():
    return LlamaForCausalLM.from_pretrained("base")


def differs(folder, logits):
    try:
        read = PeftModel.from_pretrained(base(), folder)(tokens).logits.detach()
        return float((read - logits).abs().max())
    except KeyError as error:
        return f"KeyError {error}"


found = {}
for method in ("pissa", "pissa_niter_4"):
    config = LoraConfig(
        r=8, target_modules="all-linear", init_lora_weights=method, modules_to_save=["embed_tokens"]
    )
    model = get_peft_model(base(), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(f"{method}/begin")
    model.peft_config["default"].init_lora_weights = method
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    logits = model.eval()(tokens).logits.detach()
    moved = float((base()(tokens).logits.detach() - logits).abs().max())
    model.save_pretrained(f"{method}/own")
    model.save_pretrained(
        f"{method}/lora", path_initial_model_for_weight_conversion=f"{method}/begin"
    )
    beside = [
        {key for key in load_file(f"{method}/{kind}/adapter_model.safetensors") if "lora_" not in key}
        for kind in ("own", "lora")
    ]
    assert beside == [{"base_model.model.model.embed_tokens.weight"}, set()]
    own, lora = found[method] = [differs(f"{method}/{kind}", logits) for kind in ("own", "lora")]
    print(f"{method:14} as PiSSA: {own:.2f} of {moved:.2f} by training  as LoRA: {lora}")
(exact, no_file), (drawn, none_either) = found.values()
assert exact < 1e-4 and drawn > 0.1
assert "embed_tokens" in no_file and no_file == none_either
PY
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check transformers==5.23.0 torch==2.13.0 peft==0.21.2 \
  2>&1 | { grep -v WARNING || true; }
venv/bin/python convert.py 2> log || { cat log; exit 1; }
