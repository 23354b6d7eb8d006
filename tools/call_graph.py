# SPDX-License-Identifier: Apache-2.0
"""Find what the names in a package mean: a graph of its definitions, read from the source alone.

A definition is a function, a method, a class or a variable at the top of a module, known by its
dotted name. It leads to each definition that its code names: by an import, through a table
(``MODES[mode]``), or as the method of an object whose class an annotation, a constructor or the
type of a returned value tells. Annotations lead nowhere. A class leads to what runs when one is
made and entered. What only the running program knows is not followed.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
RUN_BY_CLASS = ("__init__", "__post_init__", "__enter__", "__call__")
WRAPPERS = {"Iterator", "Generator", "AbstractContextManager", "ContextManager", "Optional"}


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """One function, method, class or variable; ``owner`` is the class of a method."""

    name: str
    module: str
    node: ast.AST
    owner: str | None = None

    @property
    def own_name(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def is_function(self) -> bool:
        return isinstance(self.node, FUNCTIONS)


@dataclass(slots=True)
class Scope:
    """Names inside one definition: classes of the objects, and names that hide a global one."""

    module: str
    classes: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def note(self, name: str, found: str | None) -> None:
        """The first class that is known of a name stays."""
        if found is not None:
            self.classes.setdefault(name, found)


class Names:
    """Resolves the names of ``modules``, dotted name -> syntax tree."""

    def __init__(self, modules: Mapping[str, ast.Module]) -> None:
        self.modules = modules
        self.definitions = {d.name: d for m in modules for d in _definitions(m, modules[m])}
        self._imports = {name: _imports(tree) for name, tree in modules.items()}
        self._fields: dict[tuple[str, str], str | None] = {}
        self._scopes: dict[str, Scope] = {}

    def resolve(self, name: str) -> str | None:
        """The definition or module that a dotted name means, through re-exports."""
        for _ in range(8):
            if name in self.definitions or name in self.modules:
                return name
            module, _, rest = name.rpartition(".")
            while module and module not in self.modules:
                module, _, last = module.rpartition(".")
                rest = f"{last}.{rest}"
            first, dot, rest = rest.partition(".")
            if first not in self._imports.get(module, {}):
                return None
            name = self._imports[module][first] + dot + rest
        return None

    def meant(self, node: ast.AST, scope: Scope) -> str | None:
        """The definition or module that an expression names."""
        if isinstance(node, ast.Name) and node.id not in scope.hidden:
            return self.resolve(f"{scope.module}.{node.id}")
        if isinstance(node, ast.Attribute):
            owner = self.meant(node.value, scope) or self.class_of(node.value, scope)
            return self._member(owner, node.attr) if owner else None
        return None

    def class_of(self, node: ast.AST | None, scope: Scope) -> str | None:
        """The class of an expression's value, where the source tells it."""
        if isinstance(node, ast.Name):
            return scope.classes.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.class_of(node.value, scope)
            return self._field_class(owner, node.attr) if owner else None
        if isinstance(node, ast.Call):
            made = self.definitions.get(self.meant(node.func, scope) or "")
            if made is not None and isinstance(made.node, FUNCTIONS):
                return self.annotated(made.node.returns, made.module)
            return made.name if made is not None and isinstance(made.node, ast.ClassDef) else None
        return None

    def annotated(self, node: ast.AST | None, module: str) -> str | None:
        """The package's class that an annotation names: C, "C", ``C | None``, ``Iterator[C]``."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.BinOp):
            return self.annotated(node.left, module) or self.annotated(node.right, module)
        if isinstance(node, ast.Subscript):
            wraps = ast.unparse(node.value).rpartition(".")[2] in WRAPPERS
            node = node.slice if wraps else node.value
        meant = self.definitions.get(self.meant(node, Scope(module)) or "") if node else None
        return meant.name if meant is not None and isinstance(meant.node, ast.ClassDef) else None

    def path(self, starts: list[str], ends: set[str]) -> list[str]:
        """The shortest way from one of ``starts`` to one of ``ends``; empty where there is none."""
        came_from: dict[str, str | None] = dict.fromkeys(starts)
        queue = deque(starts)
        while queue:
            name = queue.popleft()
            if name in ends:
                steps = [name]
                while (before := came_from[steps[-1]]) is not None:
                    steps.append(before)
                return steps[::-1]
            for following in self.leads_to(name):
                if following not in came_from:
                    came_from[following] = name
                    queue.append(following)
        return []

    def leads_to(self, name: str) -> list[str]:
        """The definitions that a definition's code names, in the order of the source."""
        found = self.definitions[name]
        if isinstance(found.node, ast.ClassDef):
            run = (self._member(name, method) for method in RUN_BY_CLASS)
            return [method for method in run if method]
        scope = self.scope(found)
        meant = (self.meant(node, scope) for node in without_annotations(found.node))
        return [m for m in dict.fromkeys(meant) if m and m in self.definitions and m != name]

    def scope(self, found: Definition) -> Scope:
        """Names inside a definition, and what is known of them."""
        if found.name not in self._scopes:
            scope = self._scopes[found.name] = self._parameters(found)
            for target, value in _assignments(found.node) if found.is_function else ():
                if isinstance(target, ast.Name):
                    scope.hidden.add(target.id)
                    scope.note(target.id, self.class_of(value, scope))
        return self._scopes[found.name]

    def _parameters(self, found: Definition) -> Scope:
        scope = Scope(found.module)
        for node in ast.walk(found.node) if found.is_function else ():
            if isinstance(node, ast.arg):
                scope.hidden.add(node.arg)
                scope.note(node.arg, self.annotated(node.annotation, found.module))
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                scope.hidden.add(node.id)
        scope.note("self", found.owner)
        return scope

    def _member(self, owner: str, name: str) -> str | None:
        """A module's name, or a class's method, its own or inherited."""
        own = self.resolve(f"{owner}.{name}")
        found = self.definitions.get(owner)
        if own is not None or found is None or not isinstance(found.node, ast.ClassDef):
            return own
        bases = (self.meant(base, Scope(found.module)) for base in found.node.bases)
        inherited = (self._member(base, name) for base in bases if base and base != owner)
        return next(filter(None, inherited), None)

    def _field_class(self, owner: str, name: str) -> str | None:
        """The class of a field: annotated, a property's, or of what ``__init__`` assigns."""
        if (owner, name) not in self._fields:
            # A field that is made of itself asks again before the answer is there.
            self._fields[owner, name] = None
            self._fields[owner, name] = self._found_field(self.definitions[owner], name)
        return self._fields[owner, name]

    def _found_field(self, owner: Definition, name: str) -> str | None:
        for node in ast.walk(owner.node):
            if isinstance(node, ast.AnnAssign) and _last(node.target) == name:
                return self.annotated(node.annotation, owner.module)
            if isinstance(node, FUNCTIONS) and node.name == name and node.decorator_list:
                return self.annotated(node.returns, owner.module)
        start = self.definitions.get(f"{owner.name}.__init__")
        for target, value in _assignments(start.node) if start else ():
            if start and isinstance(target, ast.Attribute) and target.attr == name:
                return self.class_of(value, self._parameters(start))
        return None


def without_annotations(node: ast.AST) -> Iterator[ast.AST]:
    """``node`` and all below it, but for annotations."""
    yield node
    for name, value in ast.iter_fields(node):
        for below in value if isinstance(value, list) else [value]:
            if isinstance(below, ast.AST) and name not in ("annotation", "returns"):
                yield from without_annotations(below)


def _definitions(module: str, tree: ast.Module) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, FUNCTIONS):
            yield Definition(f"{module}.{node.name}", module, node)
        elif isinstance(node, ast.ClassDef):
            owner = f"{module}.{node.name}"
            yield Definition(owner, module, node)
            for method in (m for m in node.body if isinstance(m, FUNCTIONS)):
                yield Definition(f"{owner}.{method.name}", module, method, owner)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (t for t in targets if isinstance(t, ast.Name)):
                yield Definition(f"{module}.{target.id}", module, node)


def _imports(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted name, of all imports of a module, lazy ones included."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            tops = {a.name.partition(".")[0] for a in node.names if not a.asname}
            found |= {top: top for top in tops}
            found |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def _assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    for below in ast.walk(node):
        if isinstance(below, ast.Assign):
            for target in below.targets:
                if isinstance(target, ast.Tuple) and isinstance(below.value, ast.Tuple):
                    yield from zip(target.elts, below.value.elts, strict=False)
                else:
                    yield target, below.value
        elif isinstance(below, ast.withitem) and below.optional_vars is not None:
            yield below.optional_vars, below.context_expr


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
