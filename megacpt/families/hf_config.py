# SPDX-License-Identifier: Apache-2.0
"""Read config.json field by field: every value has a type, every failure names file and key."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.errors import ModelError
from megacpt.families.rope import KINDS, Rope, StatedRope, scaling_of

GENERATION = "generation_config.json"
MISSING = object()
QUANTISATION_KEYS = ("quantization_config", "compression_config", "quantization")
"""Of transformers, of older compressed-tensors, of MLX."""
STORAGE_KEYS = (
    *QUANTISATION_KEYS,
    "_pre_quantization_dtype",
    "transformers_weights",
    "transformers.js_config",
    "_name_or_path",
)
"""How and where one folder keeps the weights, not what the model is: untrue of any other folder.
``transformers_version`` is not among them: by it readers date the tokenizer's files, too."""
FULL, LOCAL = "full_attention", "sliding_attention"
"""Types of layers: whose tokens see all before them, or those of a window."""
_ACTIVATIONS = {
    **{name: name for name in ("silu", "gelu", "gelu_pytorch_tanh")},
    "swish": "silu",
    "gelu_new": "gelu_pytorch_tanh",
}

_BESIDE_ROPE = ("original_max_position_embeddings",)


@dataclass(frozen=True, slots=True, kw_only=True)
class HfConfig:
    """A Hugging Face config.json, as transformers 4 or 5 writes it."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, *, name: str = "config.json") -> HfConfig:
        path = folder / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelError(
                f"{folder} is not a Hugging Face model folder: it has no config.json; "
                "give the folder that holds config.json, tokenizer.json and *.safetensors."
            ) from error
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path} cannot be read as JSON ({error}); download the model again."
            ) from error
        if not isinstance(values, dict):
            raise ModelError(f"{path} must hold a JSON object; download the model again.")
        return cls(path=path, values=values)

    def _fail(self, key: str, *, rule: str, value: object) -> ModelError:
        return ModelError(f"{self.path}: {key} {rule}, but is {value!r}; use a supported model.")

    def _get(self, key: str, *, default: object) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is MISSING:
                raise ModelError(
                    f"{self.path} has no {key}, which this family needs; download the model again."
                )
            return default
        return value

    def integer(self, key: str, *, default: int | object = MISSING, at_least: int = 1) -> int:
        value = self._get(key, default=default)
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            wanted = "a positive integer" if at_least == 1 else f"an integer from {at_least} up"
            raise self._fail(key, rule=f"must be {wanted}", value=value)
        return value

    def number(self, key: str, *, default: float | object = MISSING) -> float:
        value = self._get(key, default=default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._fail(key, rule="must be a number", value=value)
        return float(value)

    def numbers(self, key: str, *, num: int) -> tuple[float, ...]:
        value = self._get(key, default=MISSING)
        if not isinstance(value, list) or not all(isinstance(v, int | float) for v in value):
            raise self._fail(key, rule="must be a list of numbers", value=value)
        if len(value) != num:
            raise self._fail(f"the length of {key}", rule=f"must be {num}", value=len(value))
        return tuple(float(v) for v in value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self._get(key, default=default)
        if not isinstance(value, bool):
            raise self._fail(key, rule="must be true or false", value=value)
        return value

    def flags(self, key: str, *, num: int, default: Sequence[int]) -> Sequence[int]:
        """One 0 or 1 a layer, of ``num``; transformers does not read what goes beyond them."""
        value = self._get(key, default=default)
        if not isinstance(value, list) or len(value) < num or not set(value) <= {0, 1}:
            raise self._fail(key, rule=f"must be a list of {num} times 0 or 1", value=value)
        return value[:num]

    def names(
        self, key: str, *, num: int, known: Collection[str], default: Sequence[str]
    ) -> Sequence[str]:
        """One a layer, of ``num``."""
        value = self._get(key, default=default)
        if not isinstance(value, list) or len(value) != num or not set(value) <= set(known):
            rule = f"must be a list of {num} of {', '.join(sorted(known))}"
            raise self._fail(key, rule=rule, value=value)
        return value

    def layers(self, key: str) -> tuple[int, ...]:
        """Numbers of layers, from 0; none where the config has no such list."""
        value = self._get(key, default=[])
        if not isinstance(value, list) or not all(type(n) is int for n in value):
            raise self._fail(key, rule="must be a list of layers' numbers", value=value)
        return tuple(value)

    def token_id(self, key: str) -> int | None:
        """A special token; where the config lists several, the first. Older Llama configs say -1
        for "no padding token"."""
        return next(iter(self.token_ids(key)), None)

    def token_ids(self, key: str) -> tuple[int, ...]:
        """All the special tokens that the config lists."""
        value = self.values.get(key)
        listed = value if isinstance(value, list) else [value]
        return tuple(number for number in listed if isinstance(number, int) and number >= 0)

    def quantisation(self) -> str | None:
        """Key and method, where the config says that the weights are stored quantised."""
        for key in QUANTISATION_KEYS:
            value = self.values.get(key)
            if value:
                stated = value if isinstance(value, dict) else {}
                method = stated.get("quant_method", stated.get("bits"))
                return f"{key} ({method})" if method else key
        return None

    def require(
        self, key: str, *, wanted: object, default: object, also: Sequence[object] = ()
    ) -> None:
        """Refuse a model that asks for arithmetic this family does not have; ``also``: other
        spellings of what is wanted."""
        value = self._get(key, default=default)
        if value != wanted and value not in also:
            raise self._fail(key, rule=f"must be {wanted!r}", value=value)

    def require_between(self, key: str, *, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise self._fail(key, rule=f"must be from {low} to {high}", value=value)

    def require_divisor(self, key: str, *, value: int, of: int) -> None:
        if of % value != 0:
            raise self._fail(key, rule=f"must divide {of}", value=value)

    def window(self, key: str, *, default: int | None) -> int | None:
        """Tokens that one sees, itself among them; ``null`` stands for all."""
        return None if self.values.get(key, default) is None else self.integer(key, default=default)

    def cap(self, key: str, *, default: float | None) -> float | None:
        """A bound; ``null`` stands for none."""
        if self.values.get(key, default) is None:
            return None
        value = self.number(key, default=default)
        if value <= 0.0:
            raise self._fail(key, rule="must be above 0", value=value)
        return value

    def activation(self, key: str, *, default: str) -> str:
        """Of the MLP; names of the same function are one."""
        value = self._get(key, default=default)
        if value not in _ACTIVATIONS:
            raise self._fail(key, rule=f"must be one of {', '.join(_ACTIVATIONS)}", value=value)
        return _ACTIVATIONS[value]

    def local_window(self, *, default: int, key: str = "sliding_window") -> int:
        """Of a family in which layers have one by their type."""
        stated = HfConfig(path=self.path, values={key: default, **self.values})
        return stated.integer(key)

    def full_attention_layers(
        self, *, num: int, default: Callable[[int], bool], local: str = LOCAL
    ) -> tuple[int, ...]:
        """Layers, of ``num`` from 0, that are not ``local``, by ``layer_types``; where that is not
        stated, those for which ``default`` is true."""
        known = (FULL, local)
        unless = [known[0] if default(n) else known[1] for n in range(num)]
        kinds = self.names("layer_types", num=num, known=known, default=unless)
        return tuple(n for n, kind in enumerate(kinds) if kind == FULL)

    def head_dim(self) -> int:
        """Stated, or hidden_size / num_attention_heads."""
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        if self.values.get("head_dim") is None and hidden % heads:
            raise self._fail(
                "hidden_size", rule=f"must be a multiple of {heads} heads", value=hidden
            )
        return self.integer("head_dim", default=hidden // heads)

    def rope(self, *, layer_type: str | None = None, may_be_partial: bool = False) -> StatedRope:
        """``layer_type``: the rope of these layers, where each kind has its own."""
        kind, stated = self.stated_rope(layer_type)
        # The length before it was stretched counts where it is stated beside the rope, if it is.
        beside = {k: v for k in _BESIDE_ROPE if (v := self.values.get(k)) is not None}
        values = {"rope_theta": 10000.0, **self.values, **stated, **beside}
        rope = HfConfig(path=self.path, values=values)
        if kind not in KINDS:
            raise self._fail("rope_type", rule=f"must be one of {', '.join(KINDS)}", value=kind)
        if not may_be_partial and kind != "proportional":
            rope.require("partial_rotary_factor", wanted=1.0, default=1.0)
        share = 1.0 if kind == "proportional" else rope.number("partial_rotary_factor", default=1.0)
        rope.require_between("partial_rotary_factor", value=share, low=0.0, high=1.0)
        theta, scaling = rope.number("rope_theta"), scaling_of(rope, kind=kind)
        found = Rope(theta=theta, scaling=scaling, share=share)
        return StatedRope(rope=found, kind=kind, stated=stated)

    def stated_rope(self, layer_type: str | None = None) -> tuple[str, Mapping[str, Any]]:
        """Kind and all that is said of it, as transformers 5 reads both forms: its own
        ``rope_parameters``, which ``rope_scaling`` of 4 overrules, but for layers with a window."""
        parameters = self.values.get("rope_parameters") or {}
        scaling = self.values.get("rope_scaling") or {}
        has_own = isinstance(parameters, dict) and layer_type in parameters
        if layer_type == LOCAL:
            stated = parameters[LOCAL] or {} if has_own else {}
        elif has_own and isinstance(scaling, dict):
            stated = {**(parameters[layer_type] or {}), **scaling}
        else:
            stated = scaling or parameters
        if not isinstance(stated, dict):
            raise self._fail("rope_parameters", rule="must be an object", value=stated)
        if any(isinstance(value, dict) for value in stated.values()):
            raise self._fail("rope_parameters", rule="must be those of one rope", value=stated)
        kind = str(stated.get("rope_type", stated.get("type", "default")))
        # Names that longrope had in older folders of Phi-3.
        is_long = kind == "su" or (kind == "yarn" and "short_factor" in stated)
        return "longrope" if is_long else kind, stated


def end_ids(folder: Path) -> tuple[int, ...]:
    """Every token at which the model of a folder stops, by its config or for generation."""
    found = [HfConfig.read(folder)]
    if (folder / GENERATION).exists():
        found.append(HfConfig.read(folder, name=GENERATION))
    return tuple(dict.fromkeys(n for config in found for n in config.token_ids("eos_token_id")))
