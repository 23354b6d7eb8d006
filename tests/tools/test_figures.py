# SPDX-License-Identifier: Apache-2.0
"""Each figure of ``make figures``, on a small tree of which the answer is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
Figures = dict[str, tuple[str, list[str]]]


def measured(root: Path, **files: str) -> Figures:
    """The figures of ``files``: ``train__loop`` is megacpt/train/loop.py."""
    for name, text in files.items():
        top = root if name.startswith("tests") else root / "megacpt"
        path = (top / name.replace("__", "/")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return figures(root)


def figures(root: Path) -> Figures:
    """Row -> today's number and its parts."""
    command = [sys.executable, str(ROOT / "tools" / "figures.py"), "--verbose", "--root", str(root)]
    found: Figures = {}
    parts: list[str] = []
    for line in subprocess.check_output(command, text=True).splitlines()[1:]:
        if line.startswith("    "):
            parts.append(line.strip())
        else:
            what, today, _ = (word.strip() for word in line.split(" | "))
            parts = []
            found[what] = today, parts
    return found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_every_figure_of_this_tree_has_a_number() -> None:
    assert [what for what, (today, _) in figures(ROOT).items() if today == "-"] == []


def test_lines_files_and_the_widest_folder_leave_out_what_git_ignores(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.so\n")
    (tmp_path / "megacpt" / "data").mkdir(parents=True)
    (tmp_path / "megacpt" / "_C.so").write_text("\n\n")
    (tmp_path / "megacpt" / "data" / "page.css").write_text("a\nb\n")
    found = measured(tmp_path, errors="x = 1\n", data__a="x = 1\n", data__b="", data__deep__c="")
    assert found["lines of the package"] == ("4", ["3 data", "1 errors.py"])
    assert found["files of the package"] == ("5", ["4 data", "1 errors.py"])
    assert found["files of the widest folder"][0] == "2"


def test_the_walk_follows_imports_tables_and_methods_to_the_update(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        commands__run="""
            def _train_as_rank():
                from megacpt.train.rank import MODES
                MODES["train"]()
            """,
        train__rank="""
            from megacpt.train import loop
            MODES = {"evaluate": loop.evaluate, "train": loop.fit}
            """,
        train__loop="""
            from megacpt.train.state import Trainer, opened
            def evaluate(): ...
            def fit(optimizer):
                with opened() as found:
                    found.trainer.go()
            """,
        train__state="""
            from collections.abc import Iterator
            from megacpt.train.update import update
            class Base:
                def go(self): self.advance()
                def advance(self): update(self)
            class Trainer(Base): ...
            class Found:
                def __init__(self, trainer: "Trainer | None"):
                    self.trainer = trainer
            def opened() -> Iterator[Found]: ...
            """,
        train__update="""
            def update(state):
                state.optimizer.step()
            """,
    )
    today, parts = found["files from the train command to the update"]
    assert (today, [part.split()[-1] for part in parts]) == (
        "5",
        ["_train_as_rank", "MODES", "fit", "go", "advance", "update"],
    )


def test_an_annotation_and_a_local_name_lead_nowhere(tmp_path: Path) -> None:
    command = """
        from megacpt.update import Update, update
        def train_as_rank(update, *, made: Update): update()
        """
    library = """
        def update(optimizer): optimizer.step()
        class Update:
            def __init__(self): update(self)
        """
    found = measured(tmp_path, cli=command, update=library)
    assert found["files from the train command to the update"] == ("-", [])


def test_the_whole_config_is_found_in_parameters_fields_and_other_objects(tmp_path: Path) -> None:
    takes = "from megacpt.config.sections import RunConfig\ndef f(config: RunConfig | None): ...\n"
    found = measured(
        tmp_path,
        config__sections="class RunConfig: ...\ndef f(config: RunConfig): ...\n",
        commands__run=takes,
        plan__rules__data=takes,
        plan__lr_rules=takes,
        plan__plan=takes,
        plan__rows="""
            from collections.abc import Callable
            from megacpt.config.sections import RunConfig
            ROWS: list[Callable[[RunConfig], bool]] = []
            """,
        train__run="""
            from megacpt.config.sections import RunConfig
            class Run:
                config: RunConfig
                def steps(self): return self.config.steps
            def own(run: Run): return run.config
            """,
        train__loop="""
            from megacpt.train.run import Run
            class Loop:
                def __init__(self, run: Run): self._run = run
                def steps(self): return self._run.config.steps
            """,
    )
    today, parts = found["files that take all of config"]
    assert (today, parts) == (
        "3",
        [
            "megacpt/plan/plan.py",
            "megacpt/train/run.py",
            "megacpt/train/loop.py through megacpt.train.run.Run",
        ],
    )
    assert found["... with those of rules and commands"][0] == "6"
    assert found["functions that read it from another object"] == (
        "1",
        ["megacpt/train/loop.py:5 steps"],
    )


def test_weight_names_count_once_a_file_and_once_for_all_families(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        families__llama="A, B = 'lm_head.weight', 'model.norm.weight'",
        families__qwen="A = 'self_attn.q_proj'",
        model__spec="A = {'mlp.router.weight', 'decoder.final_layernorm.weight'}",
        model__other="""
            'A docstring: lm_head.weight.'
            A = "tie_word_embeddings", "layernorm_epsilon", "num_local_experts=", "norm"
            """,
    )
    today, parts = found["places that know a weight's name"]
    assert today == "2"
    assert {part.split()[0] for part in parts} == {"megacpt/families/", "megacpt/model/spec.py"}


def test_positional_arguments_are_counted_beside_self(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        a="""
            def one(a, *rest, b, **more): ...
            def two(a, /, b): ...
            class C:
                def __init__(self, a, b): ...
                def __exit__(self, a, b, c): ...
                def method(self, a): ...
                @classmethod
                def made(cls, a): ...
                @staticmethod
                def free(a, b): ...
            def outer():
                def inner(a, b): ...
            """,
    )
    today, parts = found["functions with several positional arguments"]
    functions = [part.split(maxsplit=1)[1] for part in parts]
    assert today == "4"
    assert functions == ["two(a, b)", "__init__(a, b)", "free(a, b)", "inner(a, b)"]


def test_imports_inside_functions_of_all_but_the_commands(tmp_path: Path) -> None:
    lazy = "def f():\n    import json\n    if json:\n        from megacpt.errors import E\n"
    typing = "if TYPE_CHECKING:\n    import megacpt.errors\n"
    found = measured(tmp_path, train__a=lazy + typing, commands__b=lazy, cli=lazy)
    where = "megacpt/train/a.py:4 from megacpt.errors import E"
    assert found["imports inside functions"] == ("1", [where])


def test_a_name_means_two_things_where_it_stands_alone(tmp_path: Path) -> None:
    two = "class Run: ...\nclass _Own: ...\ndef main(): ...\ndef check(): ...\ndef render(): ...\n"
    uses = "from megacpt import a, b\nfrom megacpt.{} import check, main\nb.render(a.render())\n"
    found = measured(tmp_path, a=two, b=two, c=uses.format("a"), d=uses.format("b"))
    assert found["names that mean two things"] == (
        "2",
        ["Run: megacpt/a.py, megacpt/b.py", "check: megacpt/a.py, megacpt/b.py"],
    )


@pytest.mark.parametrize(("again", "longest"), [("    a = 1\n\n# why\n    b = 2\n", 3), ("", 1)])
def test_a_repetition_is_of_code_lines_and_ends_with_its_file(
    tmp_path: Path, again: str, longest: int
) -> None:
    (tmp_path / "megacpt").mkdir()
    (tmp_path / "megacpt" / "py.typed").touch()
    found = measured(
        tmp_path,
        tests__test_a="import os\ndef f():\n    a = 1\n    b = 2\n",
        tests__test_b=f"import os\n\ndef f():\n{again}    c = 3\n",
    )
    today, parts = found["longest repetition in tests/, lines"]
    assert (today, parts) == (str(longest), ["tests/test_a.py:2 = tests/test_b.py:3"])
