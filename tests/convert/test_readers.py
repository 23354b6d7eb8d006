# SPDX-License-Identifier: Apache-2.0
"""An export is the same model and the same tokenizer to each version of transformers.

``make test-readers`` installs the others beside the environment's own (tools/install_readers.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from megacpt.tokenizer import load_tokenizer
from tests.convert.test_export import import_model
from tests.family_cases.gpt_oss import CASES as GPT_OSS
from tests.family_cases.llama4 import CASES as LLAMA4
from tests.family_cases.norms import CASES as OTHER_SHAPES
from tests.family_cases.ropes import CASES as ROPES
from tests.family_cases.windows import CASES as WINDOWS
from tests.llama_cases import LLAMA3_ROPE, write_llama
from tests.mixtral_cases import CASES as MIXTRAL_CASES
from tests.mixtral_cases import write_mixtral
from tests.multimodal_cases import write_parts
from tests.qwen_cases import CASES as QWEN_CASES
from tests.qwen_cases import write_qwen

pytestmark = pytest.mark.readers
ROOT = Path(__file__).parents[2]
INSTALLED = sorted(path for path in (ROOT / ".readers").glob("[0-9]*"))
TINY = ROOT / "configs" / "model" / "tiny"
SIZES: dict[str, Any] = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": [10, 256]}
TOKENS_BS = torch.randint(0, 257, (2, 96), generator=torch.Generator().manual_seed(3))
PARTS = (
    *("llava", "mistral3", "mistral3-tied", "idefics3", "smolvlm", "internvl"),
    *("qwen2_vl", "qwen2_5_vl-tied", "qwen3_vl"),
)
UNKNOWN = {
    "4.48.3": {
        *("qwen3", "qwen3-top2-of-4", "smollm3-tied", "yarn-options", "glm4", "gemma3", "olmo3"),
        *("qwen2-windows", "gpt-oss", "llama4-tied", *PARTS),
    }
    - {"idefics3"},
    "4.57.6": {"llava"},
    "5.0.0": {"llava", "mistral3", "mistral3-tied", "olmo3"},
}
"""Families that came later; those whose part for images 5.23 writes as no other reads it; windows
of some layers, which only flash attention knew; OLMo 3, all of whose layers 5.0 stretches."""
NO_FAULT = (
    # Of 5.0.0 about its own form: it does not expect there what it has put there.
    "Unrecognized keys in `rope_parameters` for 'rope_type'='dynamic': {'rope_theta'}",
    # Of all 5 about every Phi-3: the factor it misses makes 4 refuse the model.
    "This model config has set a `rope_parameters['original_max_position_embeddings']` field",
)
TEXTS = ["In the beginning", "def f(x): return 1", "<eos>ab<eos>", "naïve\t日本"]


def as_4_writes(folder: Path, **changes: Any) -> None:
    """config.json with the names that transformers 4 has for rotary positions and the type."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    theta, kind = rope.pop("rope_theta"), rope["rope_type"]
    config["torch_dtype"] = config.pop("dtype")
    config |= {"rope_theta": theta, "rope_scaling": None if kind == "default" else rope}
    path.write_text(json.dumps(config | {"transformers_version": "4.41.0"} | changes))


def five(folder: Path) -> None:
    write_llama(folder, **SIZES, rope_theta=5e5)


def four(folder: Path) -> None:
    write_llama(folder, **SIZES, rope_theta=5e5, tie_word_embeddings=True)
    as_4_writes(folder)


def four_in_other_words(folder: Path) -> None:
    write_llama(folder, **SIZES, rope_theta=5e5)
    scaling = {"type": "linear", "factor": 1.0}
    as_4_writes(folder, rope_scaling=scaling, hidden_act="swish", pretraining_tp=2)


def scaled_five(folder: Path) -> None:
    write_llama(folder, **SIZES, rope_theta=5e5, rope_scaling={**LLAMA3_ROPE})


def scaled_four(folder: Path) -> None:
    scaled_five(folder)
    old = {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_type"}
    as_4_writes(folder, rope_scaling={"type": "llama3", **old})


def dynamic(folder: Path) -> None:
    write_llama(folder, **SIZES, rope_scaling={"rope_type": "dynamic", "factor": 4.0})


def five_begins_texts(folder: Path) -> None:
    """A tokenizer of a class whose name 4 knows, but that puts BOS in front of every text there."""
    from transformers import LlamaTokenizer

    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "a", "▁a"]
    tokenizer = LlamaTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)}, merges=[("▁", "a")]
    )
    write_llama(folder, **SIZES | {"vocab_size": len(vocabulary)})
    tokenizer.save_pretrained(folder)


def five_begins_and_ends_texts(folder: Path) -> None:
    from transformers import LlamaTokenizer

    five_begins_texts(folder)
    tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True, add_eos_token=True)
    tokenizer.save_pretrained(folder)


def quantised_once(folder: Path) -> None:
    """Plain weights whose config speaks of the quantised ones they were made of."""
    write_llama(folder, **SIZES)
    left_over = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    as_4_writes(folder, quantization_config=left_over)


LIKE_LLAMA = ("qwen2", "qwen3", "granite", "mistral", "smollm3-tied")
MIXTURES = ("top2-of-4", "qwen3-top2-of-4")
BASES: dict[str, Callable[[Path], object]] = {
    write.__name__: write
    for write in (
        *(five, four, four_in_other_words, scaled_five, scaled_four, dynamic),
        *(quantised_once, five_begins_texts, five_begins_and_ends_texts),
    )
}
BASES |= {
    name: replace(case, changes={**case.changes, **SIZES}).write
    for name, case in {
        "qwen2-windows": WINDOWS["qwen2"],
        "gpt-oss": GPT_OSS["as-published"],
        "llama4-tied": LLAMA4["maverick-tied"],
        **{name: ROPES[name] for name in ("yarn-options", "longrope-of-documents", "glm4")},
    }.items()
}
BASES |= {name: partial(write_qwen, **(QWEN_CASES[name] | SIZES)) for name in LIKE_LLAMA}
BASES |= {
    name: replace(OTHER_SHAPES[name], changes=OTHER_SHAPES[name].changes | SIZES).write
    for name in ("cohere", "cohere2-tied", "gemma2", "gemma3", "olmo2", "olmo3", "starcoder2")
}
BASES |= {name: partial(write_mixtral, **(MIXTRAL_CASES[name] | SIZES)) for name in MIXTURES}
BASES |= {name: partial(write_parts, case=name, **SIZES) for name in PARTS}


def save_tokenizer(folder: Path) -> None:
    """As transformers 5 saves one: another class, another name for further special tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<eos>"]})
    tokenizer.save_pretrained(folder)
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    assert stated["tokenizer_class"] == "TokenizersBackend"
    assert stated["extra_special_tokens"] == ["<eos>"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """What an export must be read as."""

    logits_BSV: torch.Tensor
    ids: list[list[int]]
    ids_of_text: list[list[int]]
    """With what the tokenizer puts before and after a text."""
    special: set[str]


def native(base: Path, *, logits_BSV: torch.Tensor) -> Native:
    from transformers import PreTrainedTokenizerFast

    tokenizer = load_tokenizer(base)
    return Native(
        logits_BSV=logits_BSV,
        ids=[tokenizer.encode(text, special=False).tolist() for text in TEXTS],
        ids_of_text=[tokenizer.encode(text).tolist() for text in TEXTS],
        special=set(PreTrainedTokenizerFast.from_pretrained(base).all_special_tokens),
    )


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory, one_rank: None
) -> tuple[Path, dict[str, Native]]:
    """A folder of exports, and what is in each."""
    from megacpt.config.sections import Dtype
    from megacpt.convert.certificate import native_logits
    from megacpt.convert.export import export_hf

    root, written = tmp_path_factory.mktemp("exports"), {}
    for name, write in BASES.items():
        base = tmp_path_factory.mktemp("base")
        write(base)
        if not (base / "tokenizer.json").exists():
            save_tokenizer(base)
        chunks, architecture = import_model(base)
        logits = native_logits(chunks[0].eval(), tokens_BS=TOKENS_BS)
        written[name] = native(base, logits_BSV=logits[..., : architecture.vocab_size])
        export_hf(
            chunks,
            architecture=architecture,
            source_folder=base,
            output=root / name,
            dtype=Dtype.fp32,
        )
    return root, written


def known_not(reader: Path | None) -> set[str]:
    return UNKNOWN.get(reader.name, set()) if reader else set()


@pytest.mark.skipif(not INSTALLED, reason="make test-readers installs other versions first")
@pytest.mark.parametrize("reader", [*INSTALLED, None], ids=lambda r: r.name if r else "own")
def test_every_version_reads_the_same_model(
    reader: Path | None, exports: tuple[Path, dict[str, Native]], tmp_path: Path
) -> None:
    root, written = exports
    names = [name for name in written if name not in known_not(reader)]
    job = {
        "folders": [str(root / name) for name in names],
        "tokens": TOKENS_BS.tolist(),
        "texts": TEXTS,
        "output": str(tmp_path / "read.pt"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("read_exports.py")
    subprocess.run(
        [sys.executable, "-P", str(script), str(tmp_path / "job.json")],
        env=os.environ | {"PYTHONPATH": str(reader or ""), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    found = torch.load(tmp_path / "read.pt")
    assert found["version"] == (reader.name if reader else version("transformers"))
    for name in names:
        read, wanted = found["read"][str(root / name)], written[name]
        difference = float((read["logits"] - wanted.logits_BSV).abs().max())
        assert difference < 2e-5, f"{name}: {difference}"
        assert (read["ids"], read["ids_of_text"]) == (wanted.ids, wanted.ids_of_text), name
        # 5.23 gives every qwen2 Qwen's own padding token, whatever its files say.
        assert set(read["special"]) - {"<|endoftext|>"} == wanted.special, name
        assert (read["dtype"], read["ends"]) == ("torch.float32", [10, 256]), name
        assert all(warning.startswith(NO_FAULT) for warning in read["warnings"]), name
