# SPDX-License-Identifier: Apache-2.0
"""Before any process starts: check all that can be checked, then write the run folder.

``check`` only reads. ``prepare`` also writes RUN_DIR/run.yaml, plan.json and the generated token
shards; doing it again for the same run changes nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megacpt.config.atomic import write_text
from megacpt.config.compose import write_run_yaml
from megacpt.config.paths import RunFolder, heldout_shards, source_shards
from megacpt.config.sections import HeldoutConfig, RunConfig, SourceConfig, SyntheticConfig
from megacpt.data.manifest import Manifest
from megacpt.data.synthetic import write_jsonl
from megacpt.data.tokenize import tokenize
from megacpt.errors import ConfigError, DataError, EnvironmentError_, ModelError
from megacpt.model.families import read_architecture
from megacpt.plan.architecture import Architecture
from megacpt.plan.estimate import Plan, make_plan
from megacpt.plan.rules import violations
from megacpt.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    architecture: Architecture
    tokenizer: Tokenizer


def check(config: RunConfig, *, num_ranks: int | None = None) -> Plan:
    """Everything that can be known without starting a rank; writes nothing.

    ``num_ranks``: how many torchrun or srun has started, where one of them has.
    """
    model, problem = _read_model(config.model.path)
    tokens = _source_tokens(config, tokenizer=model.tokenizer) if model else None
    broken = violations(
        config,
        architecture=model.architecture if model else None,
        shard_tokens=tokens,
        num_ranks=num_ranks,
    )
    if broken:
        raise ConfigError(broken)
    if model is None or tokens is None:
        raise problem or ModelError(f"model.path={config.model.path} cannot be read.")
    _check_heldout(config, tokenizer=model.tokenizer)
    _check_prompts(config.evaluate.prompts)
    return make_plan(config, architecture=model.architecture, source_tokens=tokens)


def prepare(config: RunConfig, *, num_ranks: int | None = None) -> Plan:
    """Check, then write what the ranks read."""
    plan = check(config, num_ranks=num_ranks)
    folder = RunFolder(Path(config.run_dir))
    _check_writable(folder.root)
    write_run_yaml(config, folder.run_yaml)
    tokenizer = load_tokenizer(str(config.model.path))
    for prefix, synthetic in _generated(config).items():
        _generate(synthetic, prefix=Path(prefix), tokenizer=tokenizer)
    write_text(folder.plan_json, json.dumps(plan.to_json(), indent=2) + "\n")
    return plan


def _read_model(path: str | None) -> tuple[_Model | None, ModelError | None]:
    """The model's facts or what is wrong with it; a path that is not set is a rule's business."""
    if not path:
        return None, None
    try:
        architecture = read_architecture(path)
        return _Model(architecture=architecture, tokenizer=load_tokenizer(path)), None
    except ModelError as error:
        return None, error


def _source_tokens(config: RunConfig, *, tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens of each source that names exactly one origin; the others break a rule anyway."""
    items = {f"data.sources.{n}": s for n, s in config.data.sources.items()}
    tokens = _tokens(items, tokenizer=tokenizer)
    return {path.removeprefix("data.sources."): count for path, count in tokens.items()}


def _check_heldout(config: RunConfig, *, tokenizer: Tokenizer) -> None:
    items = {f"evaluate.heldout.{n}": h for n, h in config.evaluate.heldout.items()}
    for path, tokens in _tokens(items, tokenizer=tokenizer).items():
        if tokens < 2:
            raise DataError(f"{path} holds {tokens} tokens; a held-out set needs at least 2.")


def _tokens(
    items: Mapping[str, SourceConfig] | Mapping[str, HeldoutConfig], *, tokenizer: Tokenizer
) -> dict[str, int]:
    tokens: dict[str, int] = {}
    for path, item in items.items():
        if item.prefix and item.synthetic is None:
            tokens[path] = _shard_tokens(item.prefix, path=path, tokenizer=tokenizer)
        elif item.synthetic is not None and not item.prefix:
            tokens[path] = _synthetic_tokens(item.synthetic, tokenizer=tokenizer)
    return tokens


def _shard_tokens(prefix: str, *, path: str, tokenizer: Tokenizer) -> int:
    """Tokens of a shard that exists and was written with the model's tokenizer."""
    for ending in (".bin", ".idx"):
        if not Path(prefix + ending).is_file():
            raise DataError(
                f"{path}.prefix={prefix} is no token shard: {prefix}{ending} does not exist; "
                "write it with megacpt tokenize, and give the path without its ending."
            )
    manifest = Manifest.read(prefix)
    if manifest.tokenizer != tokenizer.fingerprint:
        raise DataError(
            f"{path}.prefix={prefix} was written with tokenizer {manifest.tokenizer[:12]}, "
            f"but the model's is {tokenizer.fingerprint[:12]}; "
            "run megacpt tokenize again with --tokenizer set to the model's folder."
        )
    if manifest.tokens == 0:
        raise DataError(f"{path}.prefix={prefix} is empty; tokenize text that is not.")
    return manifest.tokens


def _synthetic_tokens(synthetic: SyntheticConfig, *, tokenizer: Tokenizer) -> int:
    """Counted by generating it; a rule refuses what cannot be generated."""
    if synthetic.documents < 1:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.jsonl"
        write_jsonl(path, synthetic)
        texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    return sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))


def _check_prompts(path: str | None) -> None:
    if path is not None and not Path(path).is_file():
        raise DataError(
            f"evaluate.prompts={path} does not exist; give a text file, a prompt a line."
        )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EnvironmentError_(
            f"run_dir={folder} cannot be written: {error.strerror}; "
            "choose a folder with write permission and free space."
        ) from error


def _generated(config: RunConfig) -> dict[str, SyntheticConfig]:
    """Shard prefix -> what to generate there."""
    sources, heldout = source_shards(config), heldout_shards(config)
    wanted = {sources[n]: s.synthetic for n, s in config.data.sources.items()}
    wanted |= {heldout[n]: h.synthetic for n, h in config.evaluate.heldout.items()}
    return {prefix: synthetic for prefix, synthetic in wanted.items() if synthetic is not None}


def _generate(synthetic: SyntheticConfig, *, prefix: Path, tokenizer: Tokenizer) -> None:
    """Once; the manifest is written last, so where it is the shard is whole."""
    if prefix.with_name(f"{prefix.name}.json").exists():
        return
    text = prefix.with_name(f"{prefix.name}.jsonl")
    text.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(text, synthetic)
    tokenize([text], tokenizer=tokenizer, output_prefix=prefix, workers=1)
