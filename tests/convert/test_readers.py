# SPDX-License-Identifier: Apache-2.0
"""An export is the same model and the same tokenizer to each version of transformers, and the same
model to llama.cpp.

``make test-readers`` installs the others beside the environment's own (tools/install_readers.py).
"""

from __future__ import annotations

import json
import math
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
from safetensors.torch import load_file

from megacpt.families import FAMILIES as KNOWN
from megacpt.tokenizer import load_tokenizer
from tests.convert.test_export import import_model
from tests.family_cases import Case, cases
from tests.family_cases.delta_nets import NOISE
from tests.family_cases.ropes import CASES as ROPES
from tests.family_cases.windows import CASES as WINDOWS
from tests.llama_cases import LLAMA3_ROPE, write_llama
from tests.multimodal_cases import write_parts

pytestmark = pytest.mark.readers
ROOT = Path(__file__).parents[2]
INSTALLED = sorted(path for path in (ROOT / ".readers").glob("[0-9]*"))
TINY = ROOT / "configs" / "model" / "tiny"
SIZES: dict[str, Any] = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": [10, 256]}
TOKENS_BS = torch.randint(0, 257, (2, 96), generator=torch.Generator().manual_seed(3))
PARTS = (
    *("llava", "mistral3", "mistral3-tied", "idefics3", "smolvlm", "internvl", "gemma3"),
    *("qwen2_vl", "qwen2_5_vl-tied", "qwen3_vl", "qwen3_5"),
)
OTHERWISE = {
    "4.48.3": {"qwen2-windows", "yarn-options", *PARTS} - {"idefics3"},
    "4.57.6": {"llava", "gemma3"},
    "5.0.0": {"llava", "gemma3", "mistral3", "mistral3-tied", "olmo3"},
}
"""What a version reads as another model, though it knows the class: those whose part for images
5.23 writes as no other reads it; windows of some layers, which only flash attention knew; OLMo 3,
all of whose layers 5.0 stretches."""
CAME_LATER = {
    "4.48.3": {
        *("deepseek_v2", "deepseek_v3", "gemma3_text", "glm4", "glm4_moe", "ministral3", "olmo3"),
        *("qwen3", "qwen3_5_text", "qwen3_moe", "smollm3"),
        *("gpt_oss", "llama4_text", "qwen3_next", "qwen3_5_moe_text"),
    },
    "4.57.6": {"ministral3", "qwen3_5_text", "qwen3_5_moe_text"},
    "5.0.0": {"qwen3_5_text", "qwen3_5_moe_text"},
}
"""Families that a version does not have, as far as there are any here."""
NO_FAULT = (
    # Of 5.0.0 about its own form: it does not expect there what it has put there.
    "Unrecognized keys in `rope_parameters` for 'rope_type'='dynamic': {'rope_theta'}",
    # Of all 5 about every Phi-3: the factor it misses makes 4 refuse the model.
    "This model config has set a `rope_parameters['original_max_position_embeddings']` field",
    # Of all 5 about bounds of Llama 4 that leave no ramp between.
    "`rope_parameters`'s high_freq_factor field must be greater than low_freq_factor",
    # Of every version about a delta net that it computes on a CPU.
    "The fast path is not available because one of the required library is not installed.",
    "`causal_conv1d_fn` is falling back to its reference PyTorch implementation",
    "`chunk_gated_delta_rule` is falling back to its reference PyTorch implementation",
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


BASES: dict[str, Callable[[Path], object]] = {
    write.__name__: write
    for write in (
        *(five, four, four_in_other_words, scaled_five, scaled_four, dynamic),
        *(quantised_once, five_begins_texts, five_begins_and_ends_texts),
    )
}
OLDER_GLM = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
MINISTRAL_3 = ROPES["ministral3"].changes
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"rotary_pct": 1.0},
    "deepseek_v2": {"rms_norm_eps": 1e-6, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "deepseek_v3": {"rms_norm_eps": 1e-6, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    "gemma2": {"tie_word_embeddings": True, "query_pre_attn_scalar": 16},
    "gemma3_text": {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "query_pre_attn_scalar": 16,
        "final_logit_softcapping": None,
    },
    "glm": {
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_parameters": OLDER_GLM,
        # Or it takes the hidden size for it.
        "seq_length": 256,
    },
    # 4.57 and 5.0 know no other bound.
    "gpt_oss": {"swiglu_limit": 7.0},
    "ministral3": {
        "rope_parameters": {
            **MINISTRAL_3["rope_parameters"],
            "factor": 16.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }
    },
    "phi3": {"sliding_window": None},
    "qwen3_5_text": {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.25,
            "mrope_section": [1, 1, 0],
            "mrope_interleaved": True,
        },
    },
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
}
"""What llama.cpp takes for granted, as the published models of the family have it."""
NOT_COMPARED = {"gpt_oss", "llama4_text", "olmoe", "qwen3_5_moe_text", "qwen3_next"}
"""Whose small models here are none that llama.cpp computes: what it takes for granted of them is
still to be found."""
FAMILIES: dict[str, Case] = {
    case.model_type: replace(
        case, changes={**case.changes, **AS_PUBLISHED.get(case.model_type, {})}
    )
    for case in reversed(cases().values())
}
"""One case of each."""
CASES = FAMILIES | {"qwen2-windows": WINDOWS["qwen2"], "yarn-options": ROPES["yarn-options"]}
BASES |= {
    name: replace(case, changes={**case.changes, **SIZES}).write for name, case in CASES.items()
}
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

    base: Path
    logits_BSV: torch.Tensor
    ids: list[list[int]]
    ids_of_text: list[list[int]]
    """With what the tokenizer puts before and after a text."""
    special: set[str]


def native(base: Path, *, logits_BSV: torch.Tensor) -> Native:
    from transformers import PreTrainedTokenizerFast

    tokenizer = load_tokenizer(base)
    return Native(
        base=base,
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


def largest_difference(name: str) -> float:
    if name in CASES:
        return CASES[name].logits_atol
    return NOISE if name == "qwen3_5" else 2e-5


def differences(read: dict[str, Any], *, wanted: Native, name: str) -> dict[str, Any]:
    """What was read otherwise than it was written, and as what."""
    difference = float((read["logits"] - wanted.logits_BSV).abs().max())
    unexpected = [text for text in read["warnings"] if not text.startswith(NO_FAULT)]
    # 5.23 gives every qwen2 Qwen's own padding token, whatever its files say.
    special = set(read["special"]) - {"<|endoftext|>"}
    found = {
        "logits": (difference, difference < largest_difference(name)),
        "ids": (read["ids"], read["ids"] == wanted.ids),
        "ids_of_text": (read["ids_of_text"], read["ids_of_text"] == wanted.ids_of_text),
        "special": (special, special == wanted.special),
        "dtype": (read["dtype"], read["dtype"] == "torch.float32"),
        "ends": (read["ends"], read["ends"] == [10, 256]),
        "warnings": (unexpected, not unexpected),
    }
    return {key: value for key, (value, is_right) in found.items() if not is_right}


@pytest.mark.skipif(not INSTALLED, reason="make test-readers installs other versions first")
@pytest.mark.parametrize("reader", [*INSTALLED, None], ids=lambda r: r.name if r else "own")
def test_every_version_reads_the_same_model(
    reader: Path | None, exports: tuple[Path, dict[str, Native]], tmp_path: Path
) -> None:
    root, written = exports
    of_version = reader.name if reader else "own"
    names = [name for name in written if name not in OTHERWISE.get(of_version, ())]
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
    read_of = {name: found["read"].get(str(root / name)) for name in names}
    unknown = {name for name, read in read_of.items() if read is None}
    wrong = {
        name: faults
        for name, read in read_of.items()
        if read is not None and (faults := differences(read, wanted=written[name], name=name))
    }
    assert not wrong
    assert unknown & FAMILIES.keys() == CAME_LATER.get(of_version, set()) & FAMILIES.keys()


def test_every_family_is_among_the_exports() -> None:
    assert FAMILIES.keys() == KNOWN.keys()


def test_the_tokenizer_s_files_travel_byte_for_byte(
    exports: tuple[Path, dict[str, Native]],
) -> None:
    """But for the keys of tokenizer_config.json that not every version knows."""
    root, written = exports
    for name, wanted in written.items():
        files = [path for path in wanted.base.iterdir() if "token" in path.name]
        assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in files}
        for path in files:
            there = root / name / path.name
            if path.name == "tokenizer_config.json":
                assert without_class(there) == without_class(path), name
            else:
                assert there.read_bytes() == path.read_bytes(), (name, path.name)


def without_class(path: Path) -> dict[str, Any]:
    renamed = {"tokenizer_class", "extra_special_tokens", "additional_special_tokens"}
    return {k: v for k, v in json.loads(path.read_text()).items() if k not in renamed}


def read_by(
    reader: Path, *, script: str, names: list[str], root: Path, work: Path
) -> dict[str, dict[str, Any]]:
    """What another program says of exports, by their names."""
    job = {
        "folders": [str(root / name) for name in names],
        "tokens": TOKENS_BS[0].tolist(),
        "files": str(work / "files"),
        "output": str(work / "read.json"),
    }
    (work / "job.json").write_text(json.dumps(job))
    subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name(script)), str(work / "job.json")],
        env=os.environ | {"PYTHONPATH": str(reader), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    read = json.loads((work / "read.json").read_text())
    return {name: read[str(root / name)] for name in names}


def num_values(folder: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


LLAMA_CPP = ROOT / ".readers" / "llama.cpp"


@pytest.mark.skipif(not LLAMA_CPP.exists(), reason="make test-readers installs llama.cpp first")
def test_llama_cpp_computes_the_same(
    exports: tuple[Path, dict[str, Native]], tmp_path: Path
) -> None:
    """From the file that its own converter makes: every value is in it, and the next token's
    probabilities are ours. Windows in Qwen2 are known to be left out, which this notices."""
    root, written = exports
    names = [*FAMILIES, "five", "four", "scaled_five", "scaled_four", "llava", "mistral3"]
    names = [name for name in [*names, "qwen2-windows"] if name not in NOT_COMPARED]
    found = read_by(LLAMA_CPP, script="read_by_llama_cpp.py", names=names, root=root, work=tmp_path)
    wrong = {}
    for name, read in found.items():
        if "refused" in read:
            wrong[name] = read["refused"]
            continue
        wanted_V = written[name].logits_BSV[0, -1].log_softmax(dim=-1)
        off = float((torch.tensor(read["log_probabilities"]) - wanted_V).abs().max())
        held = sum(math.prod(shape) for key, shape in read["tensors"] if not key.startswith("rope"))
        if off > by_llama_cpp(name) or (name not in PARTS and held != num_values(root / name)):
            wrong[name] = {"log probabilities": off, "values": (held, num_values(root / name))}
    assert wrong.keys() == {"qwen2-windows"}, wrong


def by_llama_cpp(name: str) -> float:
    """It looks GELU up in a table of half precision."""
    return 1e-3 if name in ("gemma2", "gemma3_text", "starcoder2") else largest_difference(name)
