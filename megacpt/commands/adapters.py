# SPDX-License-Identifier: Apache-2.0
"""Adapters as files: what ``merge`` does with one, and the verb that takes one out of a model."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, say, shown
from megacpt.commands.model import (
    DownloadLine,
    as_asked,
    is_peft_folder,
    model_of_run,
    model_path,
    one_rank,
)
from megacpt.errors import ConfigError, ModelError
from megacpt.text import duration, listed, text_size

if TYPE_CHECKING:
    from megacpt.convert.adapters.extract import Extracted, Nearest
    from megacpt.convert.sources import SourceModel

SHOWN = 20
"""Modules, of hundreds that a model has."""


def merge_adapter(arguments: argparse.Namespace) -> int:
    """Into its model."""
    _require_one_adapter(arguments)
    from megacpt.config.paths import RunFolder
    from megacpt.config.sections import Dtype, ParallelConfig
    from megacpt.convert.conversion import Conversion, Form, convert

    with one_rank():
        from megacpt.convert.adapters.export import certify_merged
        from megacpt.convert.chat import write_chat_template
        from megacpt.convert.opened import beside_base
        from megacpt.device.groups import initialise_parallel

        initialise_parallel(ParallelConfig(), seed=0)  # Nothing is drawn.
        dtype = Dtype(arguments.dtype or "fp32")
        source = _adapter(arguments)
        base_model = as_asked(source.described_by)

        def finish(folder: Path) -> None:
            if RunFolder(arguments.adapter).run_yaml.is_file():
                write_chat_template(arguments.adapter, folder=folder)
            if arguments.certificate:
                certify_merged(source, folder=folder, base_model=base_model, dtype=dtype)

        conversion = Conversion(
            source=beside_base(source),
            form=Form.hf,
            destination=arguments.output.absolute(),
            dtype=dtype,
            finish=finish,
        )
        line = DownloadLine(shown(arguments.output))
        try:
            done = convert(conversion, progress=line)
        finally:
            line.close()
    proof = f"  its logits against the unmerged model's: {shown(arguments.output)}/certificate.json"
    say(
        f"Wrote the Hugging Face folder {shown(arguments.output)}",
        f"  {text_size(done.bytes)} in {duration(done.elapsed_s)}: "
        f"{base_model} and {shown(arguments.adapter)}",
        *([proof] if arguments.certificate else []),
        next_command=_after_merge(arguments),
    )
    return 0


def _require_one_adapter(arguments: argparse.Namespace) -> None:
    """Before anything is imported or downloaded."""
    from megacpt.files import require_new

    if arguments.inputs:
        raise ConfigError(
            f"{arguments.inputs[0]} is a shard, and --adapter goes into a model; name one of both."
        )
    if not arguments.adapter.exists():
        raise ModelError(
            f"--adapter {arguments.adapter} does not exist; name a run, a checkpoint, or PEFT's "
            "folder."
        )
    require_new(arguments.output)


def _after_merge(arguments: argparse.Namespace) -> str:
    if (arguments.adapter / "run.yaml").is_file():
        return shlex.join(["megacpt", "report", shown(arguments.adapter)])
    return f"load {shown(arguments.output)} with transformers, or set model.path to train it"


def _adapter(arguments: argparse.Namespace) -> SourceModel:
    from megacpt.convert.opened import open_trained

    path, base = arguments.adapter, None
    if arguments.base is not None:
        base = model_path(arguments.base, weights=True, argument="--base")
        _say_other_base(path, base=base)
    elif (path / "run.yaml").is_file():
        base = Path(str(model_of_run(path, weights=True).model.path))
    source = open_trained(path, base=base)
    if source is None or source.architecture.adapter is None:
        raise ModelError(
            f"{path} is no adapter: neither a run or checkpoint of one nor PEFT's folder "
            "(adapter_config.json); a full model is exported, or converted."
        )
    return source


def _say_other_base(adapter: Path, *, base: Path) -> None:
    """PEFT's folder fits any model of its shapes."""
    if not is_peft_folder(adapter):
        return
    from megacpt.families.peft_settings import stated_settings

    stated = stated_settings(adapter).get("base_model_name_or_path")
    if stated and stated != as_asked(base) and Path(stated).absolute() != base.absolute():
        print(
            f"Note: {adapter} was trained beside {stated}, as it says, and goes into "
            f"{as_asked(base)}.",
            file=sys.stderr,
        )


def require_no_adapter(arguments: argparse.Namespace) -> None:
    """Where shards are merged."""
    for option, is_given in (
        ("--base", arguments.base is not None),
        ("--dtype", arguments.dtype is not None),
        ("--no-certificate", not arguments.certificate),
    ):
        if is_given:
            raise ConfigError(f"{option} is of an adapter; name it with --adapter ADAPTER.")


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Beside those of shards."""
    group = parser.add_argument_group("of an adapter")
    group.add_argument(
        "--adapter",
        type=Path,
        metavar="ADAPTER",
        help="its run folder, checkpoint or PEFT folder: write it and its model as one folder",
    )
    group.add_argument(
        "--base",
        metavar="MODEL",
        help="Hugging Face folder, or id on the hub, that it was trained beside (default: its own)",
    )
    group.add_argument(
        "--dtype",
        choices=("fp32", "bf16"),
        help="of all tensors, which are added in fp32 (default: fp32)",
    )
    group.add_argument(
        "--no-certificate",
        dest="certificate",
        action="store_false",
        help="do not compare the logits, which takes memory for two models",
    )


def _extract(arguments: argparse.Namespace) -> int:
    from megacpt.files import require_new

    # Before anything is downloaded.
    require_new(arguments.output)
    folder = model_path(arguments.base, weights=True, argument="--base")
    with one_rank():
        found = _extracted(arguments, folder=folder)
    for line in _lines(found.modules):
        print(line)
    left = sorted(found.others, key=lambda name: -found.others[name])[:3]
    more = f", most of all {listed(left)}" if left else ""
    say(
        f"Wrote the PEFT folder {shown(arguments.output)}, rank {arguments.rank}",
        f"  {found.error:.2%} of the difference of all modules is not in it",
        f"  changed and left out: {len(found.others)} tensors{more}",
        next_command=shlex.join(
            [
                *("megacpt", "merge", "--adapter", shown(arguments.output)),
                *("--base", as_asked(folder)),
                *("--output", f"{shown(arguments.output)}-merged"),
            ]
        ),
    )
    return 0


def _lines(modules: Sequence[Nearest]) -> Iterator[str]:
    """Those that lose most; all are in the folder."""
    yield f"{'module':<48} {'difference':>10} {'not in it':>9}"
    for found in sorted(modules, key=lambda module: -module.left)[:SHOWN]:
        yield f"{found.module:<48} {found.difference:>10.4g} {found.error:>9.2%}"
    if (more := len(modules) - SHOWN) > 0:
        yield f"... and {more} more that lose less"


def _extracted(arguments: argparse.Namespace, *, folder: Path) -> Extracted:
    from megacpt.config.sections import AdapterConfig
    from megacpt.convert.adapters.export import base_name, write_extracted
    from megacpt.convert.adapters.extract import extract
    from megacpt.convert.opened import open_source
    from megacpt.convert.sources import hugging_face
    from megacpt.families import read_architecture

    base = hugging_face(folder, architecture=read_architecture(folder))
    if arguments.head and base.architecture.tied_embeddings:
        raise ConfigError(
            f"--head: the head of {arguments.base} is its embedding; use --embedding for both."
        )
    path = Path(arguments.model)
    trained = path if path.exists() else model_path(arguments.model, weights=True)
    settings = AdapterConfig(
        rank=arguments.rank,
        alpha=float(arguments.rank),
        targets=arguments.targets,
        train_embedding=arguments.embedding,
        train_head=arguments.head,
    )
    found = extract(open_source(trained, base=folder), base=base, settings=settings)
    write_extracted(found, output=arguments.output, base_model=base_name(folder))
    return found


def _extract_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="what was trained: Hugging Face folder, run or checkpoint"
    )
    parser.add_argument(
        "--base", required=True, metavar="MODEL", help="what it was before: folder or id on the hub"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--rank", type=_rank, default=16, metavar="R", help="default: 16")
    parser.add_argument(
        "--targets", default="all-linear", metavar="NAMES", help="as adapter.targets (all-linear)"
    )
    parser.add_argument("--embedding", action="store_true", help="with the whole input embedding")
    parser.add_argument("--head", action="store_true", help="with the whole untied head")


def _rank(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no rank; use 1 or more")
    return int(text)


EXTRACT = Verb(
    name="extract",
    summary="find the LoRA nearest to what training has changed in a model",
    example="  megacpt extract runs/full --base org/model --rank 16 --output loras/full",
    add_arguments=_extract_arguments,
    run=_extract,
)
