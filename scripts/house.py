"""Prints what is too large in this package to be read in one go: `python -m scripts.house`.

Prints every class, function and test file over its limit, and exits with status 1 if there is one.
A class or function that is one idea says so: a paragraph of its docstring begins with "One idea:".
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]

CLASS_LINES = 400
CLASS_ATTRIBUTES = 25
FUNCTION_LINES = 60
NESTING = 4
TEST_FILE_LINES = 800

_EXCUSE = "One idea:"
_NESTS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class TooLarge(NamedTuple):
    """A class, function or file over its limit, and its place."""

    where: str  # "path:line name"
    what: str
    size: int
    limit: int

    def __str__(self) -> str:
        return f"{self.where}: {self.size} {self.what} (limit {self.limit})"


def too_large(repo: Path = REPO) -> Iterator[TooLarge]:
    """Everything over its limit in the package and the tests."""
    for path in sorted(repo.glob("ftpfs/**/*.py")):
        yield from _in_module(path.read_text(), str(path.relative_to(repo)))
    for path in sorted(repo.glob("tests/**/*.py")):
        lines = path.read_text().count("\n")
        if lines > TEST_FILE_LINES:
            yield TooLarge(str(path.relative_to(repo)), "lines", lines, TEST_FILE_LINES)


def _in_module(source: str, path: str) -> Iterator[TooLarge]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef | Function) or _is_excused(node):
            continue
        where = f"{path}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef):
            sizes = [
                (_lines(node), "lines", CLASS_LINES),
                (len(_attributes(node)), "attributes", CLASS_ATTRIBUTES),
            ]
        else:
            sizes = [(_lines(node), "lines", FUNCTION_LINES), (_nesting(node), "levels", NESTING)]
        for size, what, limit in sizes:
            if size > limit:
                yield TooLarge(where, what, size, limit)


def _is_excused(node: ast.ClassDef | Function) -> bool:
    paragraphs = (ast.get_docstring(node) or "").split("\n\n")
    return any(paragraph.startswith(_EXCUSE) for paragraph in paragraphs)


def _lines(node: ast.ClassDef | Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _attributes(node: ast.ClassDef) -> set[str]:
    """The attributes that the methods of a class assign to `self`."""
    return {
        target.attr
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    }


def _nesting(node: ast.AST, level: int = 0) -> int:
    """How deep blocks are nested.

    An `elif` is no level of its own, nor is the body of a nested function.
    """
    deepest = level
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children:
            if not isinstance(child, ast.AST) or isinstance(child, Function | ast.Lambda):
                continue
            is_elif = name == "orelse" and isinstance(child, ast.If) and len(children) == 1
            deeper = level + (isinstance(child, _NESTS) and not is_elif)
            deepest = max(deepest, _nesting(child, deeper))
    return deepest


def main() -> int:
    found = list(too_large())
    for each in found:
        print(each)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
