"""Prints random docstrings and comments, to be read as a stranger: `python -m scripts.sample`.

A docstring or a comment that cannot be understood without the code around it has to be rewritten,
and so have others of its kind.
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import tokenize
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

_FOLDERS = ("ftpfs", "scripts", "tests")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings in a file, each behind its line and the name that it belongs to."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield f"{path.relative_to(REPO)}:{node.body[0].lineno} {_name(node)}\n{text}"


def comments(path: Path) -> Iterator[str]:
    """The comments in a file, each behind its line. Comment lines in a row are one comment."""
    source = path.read_text()
    lines = source.splitlines()
    found: list[tuple[int, str]] = []
    after_own_line = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(
            ("#!", "# fmt:", "# noqa", "# type:")
        ):
            continue
        row, column = token.start
        code = lines[row - 1][:column].strip()
        text = token.string.removeprefix("#").strip()
        if not code and row == after_own_line + 1:
            first, begun = found.pop()
            found.append((first, f"{begun} {text}"))
        else:
            found.append((row, f"{code}  # {text}" if code else text))
        after_own_line = -1 if code else row
    for row, text in found:
        yield f"{path.relative_to(REPO)}:{row}\n{text}"


def _name(node: ast.AST) -> str:
    return getattr(node, "name", "(module)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Print random docstrings and comments.")
    parser.add_argument("--seed", type=int, default=None, help="repeats an earlier choice")
    parser.add_argument("--count", type=int, default=20, help="how many of each (default: 20)")
    arguments = parser.parse_args()
    seed = random.randrange(10_000) if arguments.seed is None else arguments.seed
    choice = random.Random(seed)
    files = sorted(path for folder in _FOLDERS for path in (REPO / folder).glob("**/*.py"))
    for title, kind in (("Docstrings", docstrings), ("Comments", comments)):
        everything = [text for path in files for text in kind(path)]
        chosen = choice.sample(everything, min(arguments.count, len(everything)))
        print(f"== {title}: {len(chosen)} of {len(everything)} (--seed {seed})")
        for text in chosen:
            print(f"\n{text}")
        print()


if __name__ == "__main__":
    main()
