# SPDX-License-Identifier: Apache-2.0
"""The verbs of models as files: convert one into another form, verify that two are the same."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import Verb, say, shown
from megacpt.commands.model import DownloadLine, model_of_run
from megacpt.errors import ConfigError
from megacpt.text import count, duration, text_size

if TYPE_CHECKING:
    from megacpt.convert.conversion import Conversion, Converted
    from megacpt.convert.sources import SourceModel

DIFFERENT = 1
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _convert(arguments: argparse.Namespace) -> int:
    from megacpt.config.sections import Dtype
    from megacpt.convert.conversion import Conversion, Form, convert

    source = _opened(arguments.source, base=arguments.base)
    is_hf = source.folder == source.described_by
    conversion = Conversion(
        source=source,
        form=Form(arguments.to or ("native" if is_hf else "hf")),
        destination=arguments.destination.absolute(),
        dtype=Dtype(arguments.dtype) if arguments.dtype else None,
        shard_bytes_max=size_of(arguments.max_shard_size),
    )
    line = DownloadLine(shown(arguments.destination))
    try:
        converted = convert(conversion, progress=line)
    finally:
        line.close()
    say(
        *_said(conversion, converted=converted), next_command=_next(conversion, base=arguments.base)
    )
    return 0


def _said(conversion: Conversion, *, converted: Converted) -> list[str]:
    form = {"hf": "Hugging Face folder", "native": "native checkpoint"}[conversion.form.value]
    new = converted.bytes - converted.resumed_bytes
    rate = f"{text_size(new / max(converted.elapsed_s, 1e-9))}/s"
    lines = [
        f"Wrote the {form} {shown(conversion.destination)}",
        f"  {text_size(converted.bytes)} in {converted.files} files, "
        f"{duration(converted.elapsed_s)}, {rate}",
    ]
    if converted.resumed_bytes:
        lines.append(f"  {text_size(converted.resumed_bytes)} were there from an earlier start")
    if conversion.source.four_bits:
        values = count(conversion.source.four_bits)
        lines.append(f"  {values} values were four-bit numbers (MXFP4), and are plain ones now")
    return lines


def _next(conversion: Conversion, *, base: Path | None) -> str:
    ours, theirs = shown(conversion.source.folder), shown(conversion.destination)
    if conversion.form.value == "hf":
        described = ["--base", shown(base)] if base is not None else []
        return shlex.join(["megacpt", "verify", ours, theirs, *described])
    model = shown(conversion.source.described_by)
    return shlex.join(["megacpt", "train", f"model.path={model}", f"checkpoint.load_from={theirs}"])


def size_of(text: str) -> int:
    """``5GB`` or ``512MiB`` in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", text, flags=re.IGNORECASE)
    size = float(found[1]) * _UNITS[(found[2] or "").upper()] if found else 0
    if size < 1:
        raise ConfigError(f"--max-shard-size={text} is no size; use one such as 5GB or 512MiB.")
    return int(size)


def _opened(path: Path, *, base: Path | None) -> SourceModel:
    from megacpt.convert.opened import open_source

    if base is None and (path / "run.yaml").is_file():
        # What the hub's cache has lost of its model is fetched again.
        base = Path(str(model_of_run(path, weights=False).model.path))
    return open_source(path, base=base)


def _base_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="the Hugging Face folder that describes a checkpoint which lies without its run",
    )


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="Hugging Face folder, checkpoint or run folder"
    )
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="a new folder")
    parser.add_argument(
        "--to",
        choices=("hf", "native"),
        help="what to write (default: native of a Hugging Face folder, else hf)",
    )
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), help="of all tensors (default: each keeps its own)"
    )
    parser.add_argument(
        "--max-shard-size",
        default="5GB",
        metavar="SIZE",
        help="of a safetensors file, where the source has no files to follow (default: 5GB)",
    )
    _base_argument(parser)


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
    from megacpt.convert.compare.tensors import compare_tensors
    from megacpt.convert.compare.text import tensor_lines

    tolerance = arguments.tolerance
    if not tolerance >= 0:
        raise ConfigError(f"--tolerance={tolerance} is below 0; use 0 or more.")
    a, b = (_opened(path, base=arguments.base) for path in (arguments.a, arguments.b))
    pairs = list(compare_tensors(a, b=b))
    for line in tensor_lines(pairs, tolerance=tolerance):
        print(line)
    same = all(pair.within(tolerance) for pair in pairs)
    if arguments.logits:
        same = _verify_logits(a, b=b, tolerance=tolerance) and same
    print("The same model." if same else f"Different by more than --tolerance {tolerance:g}.")
    return 0 if same else DIFFERENT


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
            type=Path,
            metavar=name.upper(),
            help="Hugging Face folder, checkpoint or run folder",
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
