# SPDX-License-Identifier: Apache-2.0
"""The pages under docs/ name what exists, and their examples print what they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from megacpt import cli
from megacpt.config.compose import compose
from megacpt.config.paths import configs_root
from megacpt.config.reference import BEGIN, field_texts, page_with_table, settings
from megacpt.config.schema import known_keys
from megacpt.config.sections import RunConfig
from megacpt.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
REFERENCE = ROOT / "docs" / "config.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w./-])(?:megacpt|csrc|configs|launch|tests|tools|docs)/[\w./-]*\w"
)
VERB = re.compile(r"\bmegacpt ([a-z][\w-]*\w)")
SECTIONS = [key for key in known_keys() if "." not in key]
DOTTED_KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(SECTIONS)})(?:\.[\w-]+)+")
FILE_ENDINGS = (".json", ".jsonl", ".yaml", ".py", ".safetensors", ".md", ".index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A command of a console block and the output shown below it."""

    page: str
    command: str
    output: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)


def code_of(page: Path, *, without: str = "") -> str:
    """All code of a page, in blocks (but those of one kind) and in lines."""
    text = page.read_text()
    blocks = [block for kind, block in FENCE.findall(text) if kind not in without.split()]
    return "\n".join([*blocks, *INLINE.findall(FENCE.sub("", text))])


def examples(page: Path) -> Iterator[Example]:
    for kind, block in FENCE.findall(page.read_text()):
        if kind != "console":
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", " ").partition("\n")
            yield Example(page=page.name, command=command, output=tuple(output.splitlines()))


def composed_examples() -> list[Example]:
    """Those whose settings can be composed here."""
    found = [example for page in PAGES for example in examples(page)]
    verbs = ("config", "plan", "train", "import-config")
    return [e for e in found if e.words[0] == "megacpt" and e.words[1] in verbs]


def write_yaml_files(folder: Path) -> None:
    """The files that pages show: a yaml block that begins with ``# NAME.yaml``."""
    for page in PAGES:
        for kind, block in FENCE.findall(page.read_text()):
            if kind == "yaml" and (name := re.match(r"# ([\w-]+\.yaml)\n", block)):
                (folder / name[1]).write_text(block)


def assert_shown(output: tuple[str, ...], *, printed: str) -> None:
    """``...`` stands for any number of lines; all others are as printed and in order."""
    left = f"\n{printed}"
    for piece in re.split(r"^\.\.\.$", "\n".join(output), flags=re.MULTILINE):
        if piece.strip():
            _, found, left = left.partition(f"\n{piece.strip(chr(10))}\n")
            assert found, f"not printed, or not in this order:\n{piece}\nprinted:\n{printed}"
            left = f"\n{left}"


def names_a_setting(key: str) -> bool:
    """``data.sources.law.prefix`` is ``data.sources.NAME.prefix``; a whole section is one too."""
    for section in ("data.sources", "data.stages", "evaluate.heldout", "evaluate.usefulness"):
        key = re.sub(rf"^{re.escape(section)}\.[\w-]+", f"{section}.NAME", key)
    return any(known == key or known.startswith(f"{key}.") for known in known_keys())


def test_the_table_of_settings_is_current() -> None:
    text = REFERENCE.read_text()
    assert page_with_table(text, path=REFERENCE) == text, "run python tools/config_reference.py"


def test_the_table_holds_every_setting() -> None:
    keys = {setting.key for setting in settings()}
    leaves = {k for k in known_keys() if not any(o.startswith(f"{k}.") for o in known_keys())}
    assert leaves <= keys
    assert all(names_a_setting(key) for key in keys)


def test_each_setting_says_what_it_means_on_one_line() -> None:
    wrong = [s.key for s in settings() if not s.meaning or "\n" in s.meaning]
    assert wrong == []


def test_a_field_text_is_the_string_below_it() -> None:
    source = 'class A:\n    b: int = 1\n    """One\n    two."""\n    c: int = 2\n'
    assert field_texts(source) == {"A": {"b": "One two."}}


def test_a_page_without_the_two_lines_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"p.md must hold the lines"):
        page_with_table(f"text\n{BEGIN}\n", path=Path("p.md"))


def test_a_default_is_what_the_dataclass_has() -> None:
    defaults = {setting.key: setting.default for setting in settings()}
    assert defaults["schedule.steps"] == f"`{RunConfig().schedule.steps}`"
    assert defaults["model.path"] == "`null`"
    assert defaults["parallel.sequence_parallel"] == "`false`"
    assert defaults["precision.dtype"] == "`bf16`"
    assert defaults["data.replay.share"] == "must be set"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    paths = REPOSITORY_PATH.findall(code_of(page))
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [
        link
        for link in LINK.findall(page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_exists(page: Path) -> None:
    assert set(VERB.findall(code_of(page))) <= {verb.name for verb in cli.VERBS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_dotted_key_exists(page: Path) -> None:
    # Python blocks have dotted names of their own; examples of a refused key show its error.
    refused = " ".join(example.command for example in examples(page) if is_error(example))
    found = DOTTED_KEY.findall(code_of(page, without="python"))
    keys = [key for key in found if not key.endswith(FILE_ENDINGS)]
    wrong = [key for key in keys if not names_a_setting(key) and key not in refused]
    assert wrong == []


def is_error(example: Example) -> bool:
    return any(line.startswith("Error: ") for line in example.output)


@pytest.mark.parametrize("example", composed_examples(), ids=lambda e: f"{e.page}: {e.command}")
def test_examples_print_what_is_shown(
    example: Example,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``config`` prints, and so does ``plan`` of the generated text; others must compose."""
    write_yaml_files(tmp_path)
    (tmp_path / "configs").symlink_to(configs_root())
    monkeypatch.chdir(tmp_path)
    verb, *arguments = example.words[1:]
    if verb in ("config", "import-config") or (verb == "plan" and "experiment=tiny" in arguments):
        code = cli.main([verb, *arguments])
        printed = capsys.readouterr()
        assert code == (2 if is_error(example) else 0)
        assert_shown(example.output, printed=printed.err if code else printed.out)
    else:
        parsed = cli.make_parser().parse_args(["config", *arguments])
        compose(parsed.overrides, config_file=parsed.config, config_dir=parsed.config_dir)
