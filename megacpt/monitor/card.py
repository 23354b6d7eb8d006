# SPDX-License-Identifier: Apache-2.0
"""README.md of an exported model: what the run's files say of it, for people and for the hub.

What is not known is left out. A card that the base model's folder has stays beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from yaml import YAMLError

from megacpt import __version__
from megacpt.config.hub_model import HubModel, named
from megacpt.config.sections import Init, RunConfig
from megacpt.corpus.curation import TextOrigin, origins_of
from megacpt.corpus.required import words_of
from megacpt.errors import DataError
from megacpt.families.hf_config import HfConfig
from megacpt.families.peft_settings import PEFT_SETTINGS
from megacpt.families.stored.nested import text_of
from megacpt.files import write_text
from megacpt.monitor.layers import checks_of
from megacpt.monitor.report import found_settings, run_files, settings
from megacpt.monitor.summary import HeldoutChange, Summary, summarise, up_to
from megacpt.shards.manifest import read_shard_manifest
from megacpt.text import duration, text_size

CARD = "README.md"
"""What PEFT knows a folder by; of the model it has nothing."""
TAGS = ("megacpt", "continued-pretraining")
_KEPT_KEYS = ("license", "license_name", "license_link", "language")
"""Of the base model's card, true of what was made from it, too."""
_DATASET = re.compile(
    r"/datasets--(?P<owner>(?:(?!--)[^/])+)--(?P<name>(?:(?!--)[^/])+)/snapshots/[0-9a-f]{40}/"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card is written from."""

    config: RunConfig
    summary: Summary
    """Of the steps up to the one that is exported."""
    step: int
    has_parts: bool
    """The text is a part of a model of text and images."""
    base: Mapping[str, Any]
    """What the base model's own card says of licence and language."""
    base_card: str | None
    """The file beside this card that holds the base model's."""
    datasets: Mapping[str, Sequence[str]]
    """Source -> the datasets of the hub that its text came from, as far as that is known."""
    is_adapter: bool = False
    """The folder holds what was trained alone, as peft reads it."""
    is_certified: bool = True

    @property
    def relation(self) -> str | None:
        """To the base model, in the hub's words."""
        if self.base_id is None:
            return None
        return "adapter" if self.is_adapter else "finetune"

    @property
    def base_name(self) -> str:
        """``ORG/NAME`` of the hub, or the folder's name."""
        stored = HubModel.stored(str(self.config.model.path))
        return stored.repo if stored else Path(str(self.config.model.path)).name

    @property
    def base_id(self) -> str | None:
        """Where it is on the hub, and weights of it were trained."""
        stored = HubModel.stored(str(self.config.model.path))
        return None if stored is None or self.config.model.init is Init.random else stored.repo


def write_card(
    folder: Path, *, run_dir: Path, config: RunConfig, step: int, certified: bool = True
) -> None:
    """Write it into an export, of the checkpoint of ``step``, that is complete otherwise, but for
    its certificate, if it is ``certified``."""
    base_card = _keep(folder / CARD)
    is_adapter = (folder / PEFT_SETTINGS).exists()
    described = Path(str(config.model.path)) if is_adapter else folder
    files = up_to(run_files(run_dir, config=config), step=step)
    facts = CardFacts(
        config=config,
        summary=summarise(files),
        step=step,
        has_parts=text_of(HfConfig.read(described)) is not None,
        is_adapter=is_adapter,
        is_certified=certified,
        base=_said_of_base(base_card),
        base_card=None if base_card is None else base_card.name,
        datasets={name: datasets_of(source.prefix) for name, source in config.data.sources.items()},
    )
    write_text(folder / CARD, text=card(facts))


def _keep(path: Path) -> Path | None:
    """Give the base model's card another name, one that is free."""
    if not path.exists():
        return None
    names = (f"README_BASE{'' if n == 1 else f'_{n}'}.md" for n in numbers(1))
    kept = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    path.rename(kept)
    return kept


def _said_of_base(path: Path | None) -> dict[str, Any]:
    try:
        said = None if path is None else metadata_load(path)
    except (ValueError, YAMLError):  # Then it says nothing that a program could read.
        said = None
    return {key: said[key] for key in _KEPT_KEYS if said.get(key)} if said else {}


def datasets_of(prefix: str | None) -> tuple[str, ...]:
    """Those of the hub's cache that a shard's manifest names as its inputs."""
    if prefix is None:
        return ()
    try:
        manifest = read_shard_manifest(prefix)
    except DataError:  # Training has read the shard without it.
        return ()
    found = [_DATASET.search(file.path) for file in (manifest.inputs if manifest else ())]
    return tuple(dict.fromkeys(f"{match['owner']}/{match['name']}" for match in found if match))


def card(facts: CardFacts) -> str:
    """The whole text."""
    sections = {
        "Use": _use(facts),
        "Data": _data(facts),
        "Curation": _curation(facts.summary["plan"] or {}),
        "Held-out losses": _heldout(facts.summary),
        "Gate": _gate(facts.summary),
        "Training": _training(facts),
        "Software and hardware": _machine(facts),
        "Base model": _base(facts),
    }
    written = [(title, list(lines)) for title, lines in sections.items()]
    body = "".join(f"\n## {title}\n\n" + "\n".join(ls) + "\n" for title, ls in written if ls)
    return f"---\n{front_matter(facts).to_yaml()}\n---\n\n{_head(facts)}{body}"


def front_matter(facts: CardFacts) -> ModelCardData:
    """What the hub reads."""
    datasets = {name for used in facts.datasets.values() for name in used}
    results = list(_results(facts.summary))
    return ModelCardData(
        base_model=facts.base_id,
        base_model_relation=facts.relation,
        datasets=sorted(datasets) or None,
        eval_results=results or None,
        library_name="peft" if facts.is_adapter else "transformers",
        model_name=facts.summary["run"] if results else None,
        pipeline_tag="image-text-to-text" if facts.has_parts else "text-generation",
        tags=list(TAGS),
        **facts.base,
    )


def _results(summary: Summary) -> Iterator[EvalResult]:
    for name, change in summary["heldout"].items():
        final = change.get("final")
        for metric in ("loss", "perplexity"):
            value = None if final is None else final[metric]
            if value is not None:
                yield EvalResult(
                    task_type="text-generation",
                    dataset_type=name,
                    dataset_name=f"{name} (held out)",
                    metric_type=metric,
                    metric_name=metric,
                    metric_value=round(value, 6),
                )


def _head(facts: CardFacts) -> str:
    summary, path = facts.summary, _text(facts.base_name)
    begun = (
        f"A model of the architecture of {path}, trained from random weights"
        if facts.config.model.init is Init.random
        else f"{path} after continued pretraining"
    )
    if facts.is_adapter:
        begun = f"An adapter to {path}, trained"
    tokens = f" on {summary['tokens']:,} tokens" if summary["tokens"] else ""
    headline = summary["headline"] if summary["heldout"] else ""
    said = f"{begun}{tokens}, {facts.step:,} steps. {headline}".rstrip()
    return f"# {_text(summary['run'])}\n\n{said}\n"


def _use(facts: CardFacts) -> Iterator[str]:
    kind = "AutoModelForImageTextToText" if facts.has_parts else "AutoModelForCausalLM"
    yield "```python"
    if facts.is_adapter:
        yield "from peft import PeftModel"
    yield f"from transformers import {kind}, AutoTokenizer"
    yield ""
    yield 'folder = "."  # this folder, or the id it has on the hub'
    if facts.is_adapter:
        where = "" if facts.base_id else "  # its folder, which is not on the hub"
        yield f'base = {kind}.from_pretrained("{facts.base_id or facts.base_name}"){where}'
        yield "model = PeftModel.from_pretrained(base, folder)"
    else:
        yield f"model = {kind}.from_pretrained(folder)"
    yield "tokenizer = AutoTokenizer.from_pretrained(folder)"
    yield "```"
    yield ""
    if facts.is_certified:
        yield "`certificate.json` compares its logits with those of the model that was trained."
    else:
        yield "Nobody has compared its logits with those of the model that was trained."
    packed = facts.config.adapter.base if facts.config.adapter else None
    if packed is not None:
        yield f"It was trained and measured beside weights kept in {packed.name}, not plain ones."
    if facts.has_parts:
        yield "Only the text model was trained: all other parts are those of the base model."


def _data(facts: CardFacts) -> Iterator[str]:
    rows = facts.summary["data_mix"]
    if not any(row["tokens"] for row in rows):
        return
    yield from _table(
        ("Source", "Asked", "Seen", "Tokens", "Epochs", "Dataset"),
        rows=(
            (
                row["source"] + (" (replay)" if row["replay"] else ""),
                f"{row['asked']:.1%}",
                f"{row['achieved']:.1%}",
                f"{row['tokens']:,}",
                "" if row["epochs"] is None else f"{row['epochs']:.3g}",
                ", ".join(facts.datasets.get(row["source"], ())),
            )
            for row in rows
        ),
    )


def _curation(plan: Mapping[str, Any]) -> Iterator[str]:
    """What the shards say of their text, as it was when the run began."""
    curated = {name: origins_of(found) for name, found in plan.get("curated", {}).items()}
    if not any(curated.values()):
        return
    rows = [
        row for name, origins in curated.items() for o in origins for row in _steps(name, origin=o)
    ]
    rows += [(name, "no record", *[""] * 4) for name, found in curated.items() if not found]
    yield from _table(("Source", "Step", "Documents", "Left", "Text left", "Record"), rows=rows)
    yield ""
    yield "Steps in their order; the record is the fingerprint of the curation that wrote the text."


def _steps(name: str, *, origin: TextOrigin) -> Iterator[tuple[str, ...]]:
    for step in origin.steps:
        counts = step.counts
        yield (
            name,
            ", ".join(words_of(step)) or step.name,
            f"{counts['documents_in']:,}",
            f"{counts['documents_out']:,}",
            text_size(counts["bytes_out"]),
            origin.fingerprint,
        )
    if not origin.steps:
        yield (name, "none", "", "", "", origin.fingerprint)


def _heldout(summary: Summary) -> Iterator[str]:
    trained = {name: change for name, change in summary["heldout"].items() if "final" in change}
    if not trained:
        return
    yield from _table(
        ("Set", "Role", "Tokens", "Loss, base", "Loss", "Perplexity, base", "Perplexity", "Ratio"),
        rows=(_heldout_row(name, change=change) for name, change in trained.items()),
    )
    yield ""
    yield f"Losses are in nats a token, {summary['heldout_source']}."
    if summary["forgetting"] is not None:
        yield f"Forgetting (general loss, final minus base): {summary['forgetting']:+.4f}."


def _heldout_row(name: str, *, change: HeldoutChange) -> tuple[str, ...]:
    base, final = change["base"], change["final"]
    return (
        name,
        change["role"],
        f"{final['tokens']:,}",
        *(_number(value["loss"], digits=4) for value in (base, final)),
        *(_number(value["perplexity"], digits=3) for value in (base, final)),
        _number(change.get("ratio"), digits=4),
    )


def _gate(summary: Summary) -> Iterator[str]:
    gate = summary["gate"]
    if gate["verdict"] == "not declared":
        return
    yield f"{gate['verdict'].capitalize()}. {gate['note']}"
    suites = [c for c in checks_of(summary["layers"]) if c["limit_points"] is not None]
    checks = [*gate["checks"], *suites]
    if checks:
        yield ""
    yield from (f"- {_text(check['sentence'])}" for check in checks)


def _training(facts: CardFacts) -> Iterator[str]:
    summary, optim = facts.summary, facts.config.optim
    said = settings(facts.config) | found_settings(summary["environment"] or {})
    del said["Base model"]
    yield from _table(
        ("Setting", "Value"),
        rows=(
            ("Steps", f"{facts.step:,} of {summary['steps_planned']:,}"),
            ("Optimizer", f"{optim.optimizer.value}, beta1 {optim.beta1:g}, beta2 {optim.beta2:g}"),
            *said.items(),
        ),
    )


def _machine(facts: CardFacts) -> Iterator[str]:
    environment = facts.summary["environment"] or {}
    versions = environment.get("versions", {})
    trained_by = {"megacpt": versions.get("megacpt", __version__)} | dict(versions)
    rows = {
        "Ranks": str(environment.get("ranks") or ""),
        "Device": str(environment.get("device") or ""),
        "Processor": str(environment.get("processor") or ""),
        "Time of training": duration(facts.summary["elapsed_s"] or 0),
        **trained_by,
    }
    if not facts.summary["elapsed_s"]:
        del rows["Time of training"]
    yield from _table(("", ""), rows=((name, text) for name, text in rows.items() if text))


def _base(facts: CardFacts) -> Iterator[str]:
    random = facts.config.model.init is Init.random
    yield f"{'Architecture of' if random else 'Weights of'} {_text(facts.base_name)}."
    stored = HubModel.stored(str(facts.config.model.path))
    if stored is not None:
        yield f"Commit `{stored.revision}` of {named(facts.config.model.path)}."
    if "license" in facts.base:
        licence = facts.base.get("license_name") or facts.base["license"]
        yield f"Its licence, by its card: {_text(str(licence))}."
    if facts.base_card is not None:
        yield f"Its own card: [{facts.base_card}]({facts.base_card})."


def _table(head: Sequence[str], *, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns without any text are left out."""
    texts = [tuple(_text(cell) for cell in row) for row in rows]
    filled = [n for n in range(len(head)) if any(row[n] for row in texts)]
    for row in (head, ["---"] * len(head), *texts):
        yield "| " + " | ".join(row[n] for n in filled) + " |"


def _text(words: str) -> str:
    """As Markdown that shows them as they are, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(words.split()))


def _number(value: float | None, *, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
