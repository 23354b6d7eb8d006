# SPDX-License-Identifier: Apache-2.0
"""GPUs and their health as NVIDIA's driver tells it through ``nvidia-smi``; no context is opened.

All of it is asked for at once, as XML: what an older driver or a smaller card does not know is
``N/A`` or missing there, while one unknown name in a table query fails the whole query.
"""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field

TIMEOUT_S = 30.0
"""Eight cards without the persistence daemon take several seconds; a broken one can hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """``faults``: what the driver says is wrong; ``notes``: what only makes it slow or small."""

    index: int
    name: str
    memory_mib: int
    used_mib: int
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """``problem``: why the driver could not be asked, although it is there."""

    driver: str = ""
    cuda: str = ""
    """The newest CUDA the driver runs."""
    gpus: list[Gpu] = field(default_factory=list)
    problem: str = ""


def query(*, timeout_s: float = TIMEOUT_S) -> Gpus | None:
    """None on a machine without NVIDIA's tools."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        answer = subprocess.run(
            [command, "-q", "-x"], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Gpus(problem=f"nvidia-smi has not answered within {timeout_s:.0f} s")
    except OSError as error:
        return Gpus(problem=f"nvidia-smi cannot be run: {error.strerror}")
    if answer.returncode != 0:
        words = (answer.stdout + answer.stderr).strip().splitlines() or ["no message"]
        return Gpus(problem=f"nvidia-smi has failed: {words[0]}")
    try:
        return read(answer.stdout)
    except ElementTree.ParseError as error:
        return Gpus(problem=f"nvidia-smi has answered what is no XML: {error}")


def read(xml: str) -> Gpus:
    """What ``nvidia-smi -q -x`` says."""
    log = ElementTree.fromstring(xml)
    cards = [_gpu(card, index=index) for index, card in enumerate(log.findall("gpu"))]
    return Gpus(
        driver=log.findtext("driver_version", ""),
        cuda=log.findtext("cuda_version", ""),
        gpus=cards,
    )


def _gpu(card: ElementTree.Element, *, index: int) -> Gpu:
    used_mib = _number(card.findtext("fb_memory_usage/used"))
    return Gpu(
        index=index,
        name=card.findtext("product_name", "unknown"),
        memory_mib=_number(card.findtext("fb_memory_usage/total")),
        used_mib=used_mib,
        faults=_faults(card),
        notes=_slowed(card),
    )


def _faults(card: ElementTree.Element) -> list[str]:
    faults = []
    # Since the driver was loaded; each is a lost value in a card's memory.
    counters = card.find("ecc_errors/volatile")
    errors = sum(_number(c.text) for c in counters or () if "uncorrectable" in c.tag)
    if errors:
        faults.append(f"{errors} uncorrectable memory errors")
    for path, words in (
        ("ecc_errors/aggregate/sram_threshold_exceeded", "too many errors of its on-chip memory"),
        ("remapped_rows/remapped_row_pending", "a memory row waits to be replaced"),
        ("remapped_rows/remapped_row_failure", "a memory row could not be replaced"),
        ("retired_pages/pending_retirement", "a memory page waits to be retired"),
    ):
        if card.findtext(path, "No").strip() == "Yes":
            faults.append(words)
    action = card.findtext("gpu_recovery_action", "None").strip()
    if action not in ("None", "N/A", ""):
        faults.append(f"the driver asks for: {action}")
    return faults


def _slowed(card: ElementTree.Element) -> list[str]:
    """Slowed down by its own hardware: heat or a lack of power. The list has two names."""
    notes = []
    for group in ("clocks_event_reasons", "clocks_throttle_reasons"):
        for reason in card.find(group) or ():
            if "_hw_" in reason.tag and (reason.text or "").strip() == "Active":
                notes.append(f"slowed down ({reason.tag.partition('_hw_')[2].replace('_', ' ')})")
    return notes


def _number(text: str | None) -> int:
    """``81559 MiB`` -> 81559; ``N/A`` and what is missing -> 0."""
    first = (text or "").split(" ")[0]
    return int(first) if first.isdigit() else 0
