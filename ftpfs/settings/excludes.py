"""Patterns of names that a mount leaves out, in the syntax of .gitignore, and sets of them by name.

Pure, after the patterns are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# What macOS, Windows and Synology leave in folders.
_SETS = {
    "os-litter": (
        *(".DS_Store", "._*", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".apdisk"),
        *("Thumbs.db", "[Dd]esktop.ini", "@eaDir"),
    )
}


def read(text: str) -> tuple[str, ...]:
    """The patterns in a value such as `os-litter;*.tmp`. Raises ValueError."""
    patterns: list[str] = []
    for item in filter(None, re.split(r"\s*;\s*", text.strip())):
        patterns += _SETS.get(item, (item,))
    if not patterns:
        raise ValueError("expected patterns such as os-litter or *.tmp;build")
    matcher(patterns)
    return tuple(patterns)


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path (relative to the mount) is excluded, by itself or by a folder above it.

    Raises ValueError for a pattern that .gitignore does not allow.
    """
    from pathspec import GitIgnoreSpec

    try:
        spec = GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise ValueError(f"not a pattern: {error}") from None
    # Nobody knows yet whether a name that is looked up is a folder, as `build/` wants it.
    return lambda path: spec.match_file(path) or spec.match_file(f"{path}/")
