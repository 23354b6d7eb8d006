# SPDX-License-Identifier: Apache-2.0
"""Read config.json field by field: every value has a type, every failure names file and key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacpt.errors import ModelError
from megacpt.families.architecture import Llama3RopeScaling

MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions: base of the frequencies, and how they are stretched."""

    theta: float
    scaling: Llama3RopeScaling | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HfConfig:
    """A Hugging Face config.json, as transformers 4 or 5 writes it."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> HfConfig:
        path = folder / "config.json"
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

    def integer(self, key: str, *, default: int | object = MISSING) -> int:
        value = self._get(key, default=default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._fail(key, rule="must be a positive integer", value=value)
        return value

    def number(self, key: str, *, default: float | object = MISSING) -> float:
        value = self._get(key, default=default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._fail(key, rule="must be a number", value=value)
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._get(key, default=False)
        if not isinstance(value, bool):
            raise self._fail(key, rule="must be true or false", value=value)
        return value

    def flags(self, key: str, *, num: int, default: Sequence[int]) -> Sequence[int]:
        """One 0 or 1 a layer, of ``num``; transformers does not read what goes beyond them."""
        value = self._get(key, default=default)
        if not isinstance(value, list) or len(value) < num or not set(value) <= {0, 1}:
            raise self._fail(key, rule=f"must be a list of {num} times 0 or 1", value=value)
        return value[:num]

    def token_id(self, key: str) -> int | None:
        """A special token; where the config lists several, the first is the canonical one."""
        value = self.values.get(key)
        if isinstance(value, list):
            value = value[0] if value else None
        # Older Llama configs say -1 for "no padding token".
        return value if isinstance(value, int) and value >= 0 else None

    def require(self, key: str, *, wanted: object, default: object) -> None:
        """Refuse a model that asks for arithmetic this family does not have."""
        value = self._get(key, default=default)
        if value != wanted:
            raise self._fail(key, rule=f"must be {wanted!r}", value=value)

    def require_between(self, key: str, *, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise self._fail(key, rule=f"must be from {low} to {high}", value=value)

    def window(self, key: str, *, default: int | None) -> int | None:
        """Tokens that one sees, itself among them; ``null`` stands for all."""
        return None if self.values.get(key, default) is None else self.integer(key, default=default)

    def head_dim(self) -> int:
        """Stated, or hidden_size / num_attention_heads."""
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        if self.values.get("head_dim") is None and hidden % heads:
            raise self._fail(
                "hidden_size", rule=f"must be a multiple of {heads} heads", value=hidden
            )
        return self.integer("head_dim", default=hidden // heads)

    def rope(self) -> Rope:
        """``rope_parameters`` (transformers 5), or ``rope_theta`` and ``rope_scaling`` (4)."""
        stated = self.values.get("rope_parameters") or self.values.get("rope_scaling") or {}
        if not isinstance(stated, dict):
            raise self._fail("rope_parameters", rule="must be an object", value=stated)
        rope = HfConfig(path=self.path, values={"rope_theta": 10000.0, **self.values, **stated})
        kind = stated.get("rope_type", stated.get("type", "default"))
        rope.require("partial_rotary_factor", wanted=1.0, default=1.0)
        if kind not in ("default", "llama3"):
            raise self._fail("rope_type", rule="must be 'default' or 'llama3'", value=kind)
        scaling = rope._llama3() if kind == "llama3" else None
        return Rope(theta=rope.number("rope_theta"), scaling=scaling)

    def _llama3(self) -> Llama3RopeScaling:
        return Llama3RopeScaling(
            factor=self.number("factor"),
            low_freq_factor=self.number("low_freq_factor"),
            high_freq_factor=self.number("high_freq_factor"),
            original_max_positions=self.integer(
                "original_max_position_embeddings",
                default=self.values.get("max_position_embeddings", MISSING),
            ),
        )
