# SPDX-License-Identifier: Apache-2.0
"""Measure how big the code is and how far one has to walk in it: ``make figures``. ``--verbose``
lists what each number is made of.

Files are those that git tracks or would: what it ignores does not count. Each figure is defined by
the function that counts it. Nothing of the package is imported, so all of it works in any state.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from call_graph import FUNCTIONS, Definition, Names
from repetition import longest_repetition

PACKAGE = "megacpt"
COMMANDS = {"cli", "commands"}
TRAIN_HANDLER = "train_as_rank"
"""Function of COMMANDS that ``megacpt train`` runs on a rank; it may begin with an underscore."""
UPDATE = re.compile(r"(^|[._])optimizer\.step$|\.step_with_ready_grads$")
"""The call that changes the weights: of ``state.optimizer``, ``self._optimizer`` and the like."""
CONFIG_ROOM, CONFIG_CLASS = "config", "RunConfig"
ROWS_ROOM = "families"
RULES = re.compile(r"(^|_)rules$")
"""Modules and folders of rules: what they judge is all of the configuration."""
WEIGHT_NAME = re.compile(
    r"embed_tokens|(?<!tie_)word_embeddings|lm_head|output_layer\."
    r"|\b(q|k|v|o|gate|up|down|qkv|gate_up)_proj\b|linear_(qkv|proj|q|kv|fc1|fc2|fc\[)"
    r"|(?<!qk)_layernorm\b|layer_norm_weight|\b[qk]_norm\b|\bnorm\.(weight|bias)"
    r"|router\.(weight|bias|expert_bias)|\bexperts\\?\."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table; ``parts`` say what the number is made of."""

    what: str
    _: KW_ONLY
    today: int | None
    goal: int | None
    parts: list[str] = field(default_factory=list)


class Tree:
    """The package and its tests in a checkout."""

    def __init__(self, root: Path) -> None:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(
            [*command, "--", PACKAGE, "tests"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        self._root = root
        self.files = [p for p in map(PurePosixPath, sorted(set(listed))) if (root / p).is_file()]
        self.package = [path for path in self.files if path.parts[0] == PACKAGE]
        self.python = [path for path in self.package if path.suffix == ".py"]

    def text(self, path: PurePosixPath) -> str:
        return (self._root / path).read_text(encoding="utf-8", errors="replace")

    def path_of(self, module: str) -> str:
        return str(self._paths[module])

    def where(self, definition: Definition) -> str:
        line = getattr(definition.node, "lineno", 1)
        return f"{self.path_of(definition.module)}:{line} {definition.own_name}"

    @cached_property
    def _paths(self) -> dict[str, PurePosixPath]:
        dotted = ((".".join(p.with_suffix("").parts), p) for p in self.python)
        return {name.removesuffix(".__init__"): path for name, path in dotted}

    @cached_property
    def names(self) -> Names:
        return Names({name: ast.parse(self.text(path)) for name, path in self._paths.items()})


def room_of(module: str) -> str:
    """``megacpt.train.loop`` -> ``train``."""
    return [*module.split("."), ""][1]


def size(tree: Tree) -> Iterator[Figure]:
    """All files of the package and their lines; .py files of a folder, its subfolders aside."""
    lines = {path: tree.text(path).count("\n") for path in tree.package}
    files = Counter(path.parts[1] for path in lines)
    rooms: Counter[str] = Counter()
    for path, count in lines.items():
        rooms[path.parts[1]] += count
    folders = Counter(str(path.parent) for path in tree.python)
    widest = max(folders.values(), default=0)
    yield Figure("lines of the package", today=rooms.total(), goal=27_000, parts=_counts(rooms))
    yield Figure("files of the package", today=len(lines), goal=190, parts=_counts(files))
    yield Figure("files of the widest folder", today=widest, goal=15, parts=_counts(folders))


def walk_to_update(tree: Tree) -> Iterator[Figure]:
    """Files on the shortest way, from definition to definition by the names their code uses, from
    the handler of ``megacpt train`` on a rank to the function that has the optimizer update."""
    found = tree.names.definitions
    commands = (d for d in found.values() if room_of(d.module) in COMMANDS)
    handlers = [d.name for d in commands if d.own_name.lstrip("_") == TRAIN_HANDLER]
    updates = {name for name, d in found.items() if d.is_function and _updates(d.node)}
    steps = [found[name] for name in tree.names.path(handlers, updates)]
    what, parts = "files from the train command to the update", [tree.where(s) for s in steps]
    yield Figure(what, today=len({s.module for s in steps}) or None, goal=5, parts=parts)


def _updates(function: ast.AST) -> bool:
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
    return any(UPDATE.search(ast.unparse(call.func)) for call in calls)


def whole_config(tree: Tree) -> Iterator[Figure]:
    """Places that get the whole configuration, though most need a part of it.

    Rooms: files outside config/ with a parameter or a field annotated RunConfig, or that read one
    from an object (``run.config``); rules and commands, which are about all of it, are counted
    apart. Climbs: functions outside these that read it from an object of another file's class.
    """
    rooms: dict[str, str] = {}
    climbs = []
    for module, syntax in tree.names.modules.items():
        if room_of(module) != CONFIG_ROOM and _takes_config(tree.names, module, syntax):
            rooms[module] = tree.path_of(module)
    for definition in tree.names.definitions.values():
        module = definition.module
        owners = set(_config_owners(tree.names, definition)) if definition.is_function else set()
        if not owners or room_of(module) == CONFIG_ROOM:
            continue
        rooms.setdefault(module, f"{tree.path_of(module)} through {', '.join(sorted(owners))}")
        abroad = any(tree.names.definitions[owner].module != module for owner in owners)
        if abroad and not _is_about_all(module):
            climbs.append(tree.where(definition))
    few = [words for module, words in rooms.items() if not _is_about_all(module)]
    rest = [words for module, words in rooms.items() if _is_about_all(module)]
    yield Figure("files that take all of config", today=len(few), goal=15, parts=few)
    yield Figure("... with those of rules and commands", today=len(rooms), goal=None, parts=rest)
    what = "functions that read it from another object"
    yield Figure(what, today=len(climbs), goal=0, parts=climbs)


def _is_about_all(module: str) -> bool:
    return room_of(module) in COMMANDS or any(RULES.search(part) for part in module.split("."))


def _takes_config(names: Names, module: str, syntax: ast.Module) -> bool:
    """Tell whether a parameter, or a field of a class, is annotated RunConfig."""
    nodes = list(ast.walk(syntax))
    classes = (node for node in nodes if isinstance(node, ast.ClassDef))
    fields = [f.annotation for c in classes for f in c.body if isinstance(f, ast.AnnAssign)]
    parameters = [node.annotation for node in nodes if isinstance(node, ast.arg)]
    return any(_is_config(names.annotated(a, module)) for a in (*fields, *parameters))


def _config_owners(names: Names, definition: Definition) -> Iterator[str]:
    """Classes of the objects, other than ``self``, from which a function reads a RunConfig."""
    scope = names.scope(definition)
    for node in ast.walk(definition.node):
        if isinstance(node, ast.Attribute) and _is_config(names.class_of(node, scope)):
            owner = names.class_of(node.value, scope)
            if owner and ast.unparse(node.value) != "self":
                yield owner


def _is_config(name: str | None) -> bool:
    return name is not None and name.rpartition(".")[2] == CONFIG_CLASS


def weight_names(tree: Tree) -> Iterator[Figure]:
    """Files whose strings, docstrings aside, name a weight; those of families/ are one place."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, syntax in tree.names.modules.items():
        path, _, inside = tree.path_of(module).partition(f"/{ROWS_ROOM}/")
        place = f"{path}/{ROWS_ROOM}/" if inside else path
        docstrings = {id(n.value) for n in ast.walk(syntax) if isinstance(n, ast.Expr)}
        for node in (n for n in ast.walk(syntax) if isinstance(n, ast.Constant)):
            is_name = isinstance(node.value, str) and WEIGHT_NAME.search(node.value)
            if is_name and id(node) not in docstrings:
                places[place].append(f"{place} {node.value!r}")
    parts = [words for place in places.values() for words in dict.fromkeys(place)]
    yield Figure("places that know a weight's name", today=len(places), goal=1, parts=parts)


def positional(tree: Tree) -> Iterator[Figure]:
    """Functions with more than one positional parameter beside self or cls. ``*args`` is none; of
    Python's own ``__names__`` only ``__init__`` counts, as the order of the others is Python's."""
    parts = []
    for module, syntax in tree.names.modules.items():
        classes = [node for node in ast.walk(syntax) if isinstance(node, ast.ClassDef)]
        methods = {id(method) for owner in classes for method in owner.body}
        for node in (n for n in ast.walk(syntax) if isinstance(n, FUNCTIONS)):
            bound = id(node) in methods and "staticmethod" not in map(
                ast.unparse, node.decorator_list
            )
            given = [a.arg for a in (*node.args.posonlyargs, *node.args.args)][bound:]
            is_pythons = re.fullmatch("__(?!init__).*__", node.name)
            if len(given) > 1 and not is_pythons:
                words = f"{node.name}({', '.join(given)})"
                parts.append(f"{tree.path_of(module)}:{node.lineno} {words}")
    what = "functions with several positional arguments"
    yield Figure(what, today=len(parts), goal=40, parts=parts)


def lazy_imports(tree: Tree) -> Iterator[Figure]:
    """Imports of the package inside functions, outside the commands."""
    parts = []
    for module, syntax in tree.names.modules.items():
        functions = [n for n in ast.walk(syntax) if isinstance(n, FUNCTIONS)]
        inside = {n for f in functions for n in ast.walk(f) if isinstance(n, ast.stmt)}
        for node in sorted(inside, key=lambda n: n.lineno):
            wanted = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            wanted += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if room_of(module) not in COMMANDS and any(w.split(".")[0] == PACKAGE for w in wanted):
                parts.append(f"{tree.path_of(module)}:{node.lineno} {ast.unparse(node)}")
    yield Figure("imports inside functions", today=len(parts), goal=0, parts=parts)


def shared_names(tree: Tree) -> Iterator[Figure]:
    """Public names at the top of two modules: every class, and a function that other files import
    by its bare name from both. One that is only called through its module (``slurm.render``) says
    whose it is; so may each family have its ``read`` and each group its ``rules``."""
    bare = {
        (node.module, alias.name)
        for syntax in tree.names.modules.values()
        for node in ast.walk(syntax)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules: dict[str, list[str]] = defaultdict(list)
    for definition in tree.names.definitions.values():
        name = definition.own_name
        is_class = isinstance(definition.node, ast.ClassDef)
        is_used = definition.owner is None and definition.is_function
        is_used = is_used and name != "main" and (definition.module, name) in bare
        if (is_class or is_used) and not name.startswith("_"):
            modules[name].append(tree.path_of(definition.module))
    shared = [f"{name}: {', '.join(m)}" for name, m in sorted(modules.items()) if len(m) > 1]
    yield Figure("names that mean two things", today=len(shared), goal=0, parts=shared)


def repeated_tests(tree: Tree) -> Iterator[Figure]:
    """The longest run of equal lines at two places of tests/: ``repetition`` says which count."""
    tests = (p for p in tree.files if p.parts[0] == "tests" and p.suffix == ".py")
    longest, places = longest_repetition({str(path): tree.text(path) for path in tests})
    parts = [f"{first} = {again}" for first, again in places]
    yield Figure("longest repetition in tests/, lines", today=longest, goal=8, parts=parts)


def _counts(counter: Counter[str]) -> list[str]:
    return [f"{count:,} {name}" for name, count in counter.most_common()]


COUNTED = (
    *(size, walk_to_update, whole_config, weight_names),
    *(positional, lazy_imports, shared_names, repeated_tests),
)


def figures(root: Path) -> list[Figure]:
    """All rows, in the order of the table."""
    tree = Tree(root)
    return [figure for count in COUNTED for figure in count(tree)]


def table(rows: list[Figure], *, verbose: bool) -> Iterator[str]:
    """Lines of the table; with ``verbose`` the parts of each number below it."""
    width = max(len(row.what) for row in rows)
    yield f"{'what':{width}} | {'today':>7} | {'goal':>7}"
    for row in rows:
        today, goal = ("-" if n is None else f"{n:,}" for n in (row.today, row.goal))
        yield f"{row.what:{width}} | {today:>7} | {goal:>7}"
        yield from (f"    {part}" for part in row.parts if verbose)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="show what each number is made of")
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--root", type=Path, default=root, help="default: this checkout")
    arguments = parser.parse_args(argv)
    print("\n".join(table(figures(arguments.root), verbose=arguments.verbose)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
