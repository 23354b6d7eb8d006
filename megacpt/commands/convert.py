# SPDX-License-Identifier: Apache-2.0
"""The verbs of models as files: convert one into another form, verify that two are the same."""

from __future__ import annotations

import argparse
import re
import shlex
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, say, shown
from megacpt.commands.model import (
    DownloadLine,
    as_asked,
    bytes_to_come,
    model_of_run,
    model_path,
)
from megacpt.errors import ConfigError
from megacpt.text import count, duration, text_size

if TYPE_CHECKING:
    from megacpt.convert.compare.tensors import TensorPair
    from megacpt.convert.conversion import Conversion, Converted
    from megacpt.convert.estimate import Estimate
    from megacpt.convert.sources import SourceModel

DIFFERENT = 1
FORMS = {"hf": "Hugging Face folder", "native": "native checkpoint"}
SHARD_SIZE = "5GB"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _convert(arguments: argparse.Namespace) -> int:
    from megacpt.convert.conversion import convert
    from megacpt.files import require_new

    # Before anything is downloaded.
    require_new(arguments.destination)
    size_of(arguments.max_shard_size)
    if arguments.dry_run:
        return _dry_run(arguments)
    conversion = _conversion(arguments)
    line = DownloadLine(shown(arguments.destination))
    try:
        converted = convert(conversion, progress=line)
    finally:
        line.close()
    say(
        *_said(conversion, converted=converted), next_command=_next(conversion, base=arguments.base)
    )
    return 0


def _conversion(arguments: argparse.Namespace) -> Conversion:
    from megacpt.config.sections import Dtype
    from megacpt.convert.conversion import Conversion, Form

    source = _opened(arguments.source, argument="SOURCE", base=arguments.base)
    is_hf = source.folder == source.described_by
    return Conversion(
        source=source,
        form=Form(arguments.to or ("native" if is_hf else "hf")),
        destination=arguments.destination.absolute(),
        dtype=Dtype(arguments.dtype) if arguments.dtype else None,
        shard_bytes_max=size_of(arguments.max_shard_size),
    )


def _dry_run(arguments: argparse.Namespace) -> int:
    """What lies in the files of a model on the hub is not known before they are here."""
    again = _without_dry_run(arguments)
    folder = _path_of(arguments.source, argument="SOURCE", bring=False)
    if size := bytes_to_come(folder):
        lines = [
            f"Would download {text_size(size)} of weights of {as_asked(folder)} to",
            f"  {folder}",
            "and convert them; when they are there, this says more.",
        ]
    else:
        from megacpt.convert.estimate import estimate

        conversion = _conversion(arguments)
        lines = _would(conversion, estimate=estimate(conversion))
    say(*lines, next_command=again)
    return 0


def _would(conversion: Conversion, *, estimate: Estimate) -> list[str]:
    lines = [
        f"Would write the {FORMS[conversion.form.value]} {shown(conversion.destination)}:",
        f"  reads   {estimate.tensors:,} tensors of {as_asked(conversion.source.folder)}, "
        f"{text_size(estimate.read_bytes)}",
        f"  writes  {text_size(estimate.bytes)} in {_files(estimate.files)}, with "
        f"{text_size(estimate.free_bytes)} free there",
    ]
    if done := estimate.bytes - estimate.left_bytes:
        lines.append(f"  goes on where an earlier start has written {text_size(done)}")
    return [
        *lines,
        f"  takes   about {duration(ceil(estimate.seconds))}: the first "
        f"{text_size(estimate.sample_bytes)} took {estimate.sample_s:.2f} s",
    ]


def _without_dry_run(arguments: argparse.Namespace) -> str:
    size = arguments.max_shard_size
    options = {
        "--to": arguments.to,
        "--dtype": arguments.dtype,
        "--max-shard-size": size if size != SHARD_SIZE else None,
        "--base": arguments.base,
    }
    given = [word for name, value in options.items() if value is not None for word in (name, value)]
    return shlex.join(["megacpt", "convert", arguments.source, str(arguments.destination), *given])


def _said(conversion: Conversion, *, converted: Converted) -> list[str]:
    new = converted.bytes - converted.resumed_bytes
    rate = f"{text_size(new / max(converted.elapsed_s, 1e-9))}/s"
    lines = [
        f"Wrote the {FORMS[conversion.form.value]} {shown(conversion.destination)}",
        f"  {text_size(converted.bytes)} in {_files(converted.files)}, "
        f"{duration(converted.elapsed_s)}, {rate}",
    ]
    if converted.resumed_bytes:
        lines.append(f"  {text_size(converted.resumed_bytes)} were there from an earlier start")
    if conversion.source.four_bits:
        values = count(conversion.source.four_bits)
        lines.append(f"  {values} values were four-bit numbers (MXFP4), and are plain ones now")
    return lines


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def _next(conversion: Conversion, *, base: str | None) -> str:
    ours, theirs = as_asked(conversion.source.folder), shown(conversion.destination)
    if conversion.form.value == "hf":
        described = ["--base", base] if base is not None else []
        return shlex.join(["megacpt", "verify", ours, theirs, *described])
    model = as_asked(conversion.source.described_by)
    return shlex.join(["megacpt", "train", f"model.path={model}", f"checkpoint.load_from={theirs}"])


def size_of(text: str) -> int:
    """``5GB`` or ``512MiB`` in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", text, flags=re.IGNORECASE)
    size = float(found[1]) * _UNITS[(found[2] or "").upper()] if found else 0
    if size < 1:
        raise ConfigError(f"--max-shard-size={text} is no size; use one such as 5GB or 512MiB.")
    return int(size)


def _opened(name: str, *, argument: str, base: str | None) -> SourceModel:
    from megacpt.convert.opened import open_source

    path = _path_of(name, argument=argument)
    # What is described by a model needs no weights of it; an adapter is merged into them.
    is_adapter = (path / "adapter_config.json").is_file()
    described = _path_of(base, argument="--base", weights=is_adapter) if base is not None else None
    if described is None and (path / "run.yaml").is_file():
        # What the hub's cache has lost of its model is fetched again.
        config = model_of_run(path, weights=False)
        if config.adapter is not None:
            config = model_of_run(path, weights=True)
        described = Path(str(config.model.path))
    return open_source(path, base=described)


def _path_of(name: str, *, argument: str, weights: bool = True, bring: bool = True) -> Path:
    """A folder of any kind, or what the hub has under that name."""
    if Path(name).exists():
        return Path(name)
    return model_path(name, weights=weights, argument=argument, bring=bring)


def _base_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="Hugging Face folder, or id on the hub, of a checkpoint that lies without its run",
    )


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="Hugging Face folder, or id on the hub; checkpoint or run folder",
    )
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="a new folder")
    parser.add_argument(
        "--to",
        choices=tuple(FORMS),
        help="what to write (default: native of a Hugging Face folder, else hf)",
    )
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), help="of all tensors (default: each keeps its own)"
    )
    parser.add_argument(
        "--max-shard-size",
        default=SHARD_SIZE,
        metavar="SIZE",
        help="of a safetensors file, where the source has no files to follow (default: "
        f"{SHARD_SIZE})",
    )
    _base_argument(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check, say what would be read and written and for how long; leave nothing",
    )


CONVERT = Verb(
    name="convert",
    summary="write a Hugging Face folder as a native checkpoint, or the other way round",
    example="  megacpt convert models/llama checkpoints/llama\n"
    "  megacpt convert runs/law/checkpoints/step_00000500 models/llama-law\n"
    "Interrupted, the same command goes on.",
    add_arguments=_convert_arguments,
    run=_convert,
)


def _verify(arguments: argparse.Namespace) -> int:
    from megacpt.convert.compare.text import tensor_lines

    tolerance = arguments.tolerance
    if not tolerance >= 0:
        raise ConfigError(f"--tolerance={tolerance} is below 0; use 0 or more.")
    a, b = (
        _opened(name, argument=argument, base=arguments.base)
        for argument, name in (("A", arguments.a), ("B", arguments.b))
    )
    pairs = _compared(a, b=b)
    for line in tensor_lines(pairs, tolerance=tolerance):
        print(line)
    same = all(pair.within(tolerance) for pair in pairs)
    if arguments.logits:
        same = _verify_logits(a, b=b, tolerance=tolerance) and same
    print("The same model." if same else f"Different by more than --tolerance {tolerance:g}.")
    return 0 if same else DIFFERENT


def _compared(a: SourceModel, *, b: SourceModel) -> list[TensorPair]:
    """Pair by pair, with a line that says how far it is."""
    from megacpt.convert.compare.tensors import compare_tensors

    sizes = {name: tensor.bytes for name, tensor in a.tensors.items()}
    line, pairs, done = DownloadLine("compared"), [], 0
    try:
        for pair in compare_tensors(a, b=b):
            pairs.append(pair)
            done += sizes.get(pair.name, 0)
            line(done, sum(sizes.values()))
    finally:
        line.close()
    return pairs


def _verify_logits(a: SourceModel, *, b: SourceModel, tolerance: float) -> bool:
    from megacpt.convert.compare.logits import compare_logits, first_apart
    from megacpt.convert.compare.text import layer_lines

    layers = compare_logits(a, b=b, scratch=Path.cwd())
    for line in layer_lines(layers):
        print(line)
    apart = first_apart(layers, tolerance=tolerance)
    if apart is not None:
        print(f"First apart: {apart.name}")
    return apart is None


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            help="Hugging Face folder, or id on the hub; checkpoint or run folder",
        )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="largest difference of two numbers that is no difference (default: 0)",
    )
    parser.add_argument(
        "--logits",
        action="store_true",
        help="also compute both with transformers, and name the first layer that differs",
    )
    _base_argument(parser)


VERIFY = Verb(
    name="verify",
    summary="compare two models tensor by tensor, and by what they compute",
    example="  megacpt verify models/llama checkpoints/llama\n"
    "  megacpt verify models/llama runs/law --logits\n"
    "Exit code 1: they differ by more than --tolerance.",
    add_arguments=_verify_arguments,
    run=_verify,
)
