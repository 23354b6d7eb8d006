# SPDX-License-Identifier: Apache-2.0
"""Adapters as files: what ``merge`` does with one."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from megacpt.commands.common import say, shown
from megacpt.commands.model import (
    DownloadLine,
    as_asked,
    model_of_run,
    model_path,
    one_cpu_rank,
)
from megacpt.errors import ModelError
from megacpt.text import duration, text_size

if TYPE_CHECKING:
    from megacpt.convert.sources import SourceModel


def merge_adapter(arguments: argparse.Namespace) -> int:
    """Into its model."""
    from megacpt.config.sections import Dtype, ParallelConfig
    from megacpt.convert.conversion import Conversion, Form, convert
    from megacpt.files import require_new

    # Before anything is downloaded.
    require_new(arguments.output)
    with one_cpu_rank():
        from megacpt.convert.adapters.export import certify_merged
        from megacpt.convert.opened import beside_base
        from megacpt.device.groups import initialise_parallel

        initialise_parallel(ParallelConfig(), seed=0)  # Nothing is drawn.
        source = _adapter(arguments)
        conversion = Conversion(
            source=beside_base(source),
            form=Form.hf,
            destination=arguments.output.absolute(),
            dtype=Dtype(arguments.dtype),
        )
        if arguments.certificate:
            certify = partial(
                certify_merged,
                source,
                base_model=as_asked(source.described_by),
                dtype=Dtype(arguments.dtype),
            )
            conversion = replace(conversion, certify=lambda folder: certify(folder=folder))
        line = DownloadLine(shown(arguments.output))
        try:
            done = convert(conversion, progress=line)
        finally:
            line.close()
    proof = f"  its logits against the unmerged model's: {shown(arguments.output)}/certificate.json"
    say(
        f"Wrote the Hugging Face folder {shown(arguments.output)}",
        f"  {text_size(done.bytes)} in {duration(done.elapsed_s)}: "
        f"{as_asked(source.described_by)} and {shown(arguments.adapter)}",
        *([proof] if arguments.certificate else []),
        next_command=shlex.join(["megacpt", "train", f"model.path={shown(arguments.output)}"]),
    )
    return 0


def _adapter(arguments: argparse.Namespace) -> SourceModel:
    from megacpt.convert.opened import open_trained

    path, base = arguments.adapter, None
    if arguments.base is not None:
        base = model_path(arguments.base, weights=True, argument="--base")
    elif (path / "run.yaml").is_file():
        base = Path(str(model_of_run(path, weights=True).model.path))
    source = open_trained(path, base=base)
    if source is None or source.architecture.adapter is None:
        raise ModelError(
            f"{path} is no adapter: neither a run or checkpoint of one nor PEFT's folder "
            "(adapter_config.json); a full model is exported, or converted."
        )
    return source


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
        default="fp32",
        help="of all tensors, which are added in fp32 (default: fp32)",
    )
    group.add_argument(
        "--no-certificate",
        dest="certificate",
        action="store_false",
        help="do not compare the logits, which takes memory for two models",
    )
