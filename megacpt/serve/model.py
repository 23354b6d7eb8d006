# SPDX-License-Identifier: Apache-2.0
"""The model that is served: a Hugging Face folder, or PEFT's folder of an adapter with its base."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from megacpt.config.sections import Dtype
from megacpt.errors import EnvironmentError_, ModelError
from megacpt.families.hf_config import GENERATION
from megacpt.families.peft_settings import PEFT_SETTINGS, stated_settings
from megacpt.serve.errors import ApiError
from megacpt.serve.text import Decode
from megacpt.text import listed
from megacpt.tokenizer.folder import CONFIG as TOKENIZER_CONFIG

REPLY = "REPLY"
"""Of an assistant, to see what a chat template writes after one."""
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
"""What transformers and PEFT raise of a folder that is damaged or of something else."""
OWN_FILES = {"local_files_only": True, "trust_remote_code": False}
"""Nothing is fetched, and no code of a folder is run, about which transformers would ask at the
terminal."""
TORCH_TYPE = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """``name``: what clients call it. ``end_ids``: tokens that end a text; ``turn_end_ids``: those
    that end a turn of a chat as well."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    context_tokens: int
    end_ids: frozenset[int]
    turn_end_ids: frozenset[int]

    def encode(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(prompt))
        vocabulary = self.model.config.get_text_config().vocab_size
        bad = next((token for token in prompt if not 0 <= token < vocabulary), None)
        if bad is not None:
            raise ApiError(f"prompt has the token {bad}; ids go up to {vocabulary - 1}.")
        return prompt

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """The conversation as the tokenizer's template writes it, and the head of the next turn."""
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise ApiError(
                f"{self.name} has no chat template; send a prompt to /v1/completions, or serve a "
                "model that was instruction-tuned."
            )
        try:
            text = _render(self.tokenizer, messages=messages, reply_follows=True)
        except TemplateError as error:
            raise ApiError(f"the model's chat template refuses these messages: {error}") from error
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    @property
    def decode(self) -> Decode:
        return partial(
            self.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def load_served(
    folder: Path, *, base: Path | None, name: str, device: torch.device, dtype: Dtype
) -> ServedModel:
    """``base``: the model of an adapter's folder; None takes the one that the folder states."""
    from transformers import AutoTokenizer, GenerationConfig

    is_adapter = (folder / PEFT_SETTINGS).is_file()
    whole = (base or _stated_base(folder)) if is_adapter else folder
    _require_model(whole)
    # An adapter that learned conversations has their template, and where they end, beside it.
    described = folder if (folder / TOKENIZER_CONFIG).is_file() else whole
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(described, **OWN_FILES)
        model = _whole_model(whole, dtype=dtype)
        ends = _ids(_generation_config(described, model=model).eos_token_id)
    except UNREADABLE as error:
        raise ModelError(
            f"{whole} cannot be served: transformers says: {error}; export or convert it again."
        ) from error
    if is_adapter:
        model = _with_adapter(model, folder=folder)
    model = model.to(device).eval()
    ends |= _ids(tokenizer.eos_token_id)
    # What is not asked for is not done: no folder's own temperature or penalty.
    model.generation_config = GenerationConfig()
    return ServedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=device,
        context_tokens=int(model.config.get_text_config().max_position_embeddings),
        end_ids=frozenset(ends),
        turn_end_ids=frozenset(ends | _turn_end(tokenizer)),
    )


def _whole_model(folder: Path, *, dtype: Dtype) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype=TORCH_TYPE[dtype], output_loading_info=True, **OWN_FILES
    )
    if lacking := sorted(found["missing_keys"]):
        # transformers makes up random ones, and says so in a warning.
        raise ModelError(
            f"{folder} lacks weights of its model: {listed(lacking[:3])}; export or convert it "
            "again."
        )
    return model


def _generation_config(folder: Path, *, model: Any) -> Any:
    from transformers import GenerationConfig

    if (folder / GENERATION).is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.generation_config


def _require_model(folder: Path) -> None:
    from transformers import CONFIG_MAPPING

    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} is no Hugging Face folder: it has no config.json. Name one, or a run that "
            "was exported (megacpt export RUN_DIR)."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        has_code = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} is no JSON ({error}); export or convert it again.") from error
    if has_code:
        raise ModelError(
            f"{folder} needs code of its own (auto_map in config.json), which is never run here; "
            "use a model that transformers knows by itself."
        )


def _stated_base(folder: Path) -> Path:
    stated = stated_settings(folder).get("base_model_name_or_path")
    if stated and (Path(stated) / "config.json").is_file():
        return Path(stated)
    raise ModelError(
        f"{folder} is PEFT's folder of an adapter, whose base model, {stated}, is no folder here; "
        "name it with --base MODEL."
    )


def _with_adapter(model: Any, *, folder: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise EnvironmentError_(
            f"{folder} is an adapter, which PEFT serves, and PEFT is not installed: "
            "pip install peft, or merge it (megacpt merge --adapter)."
        ) from error
    try:
        with warnings.catch_warnings():
            # Tensors that the folder lacks would be as if never trained.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            # Of a relative path PEFT would ask the hub for what the folder lacks.
            return PeftModel.from_pretrained(model, str(folder.absolute())).merge_and_unload()
    except (*UNREADABLE, UserWarning) as error:
        raise ModelError(
            f"{folder} is no adapter of its base model, PEFT says: {error}; save it again, or name "
            "the model that it was trained beside with --base."
        ) from error


def _ids(value: int | list[int] | None) -> set[int]:
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)


def _turn_end(tokenizer: Any) -> set[int]:
    """The special token that the chat template writes after a reply, if it does."""
    if not tokenizer.chat_template:
        return set()
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": REPLY}]
    text = _render(tokenizer, messages=said, reply_follows=False)
    after = tokenizer.encode(text.rpartition(REPLY)[2], add_special_tokens=False)
    return set(after[:1]) & set(tokenizer.all_special_ids)


def _render(tokenizer: Any, *, messages: Sequence[Mapping[str, str]], reply_follows: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=reply_follows
        )
    )
