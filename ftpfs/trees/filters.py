"""Filters: which names of a tree are taken into account, by patterns in the syntax of .gitignore.

Includes say what is taken at all; excludes say what of that is left out. A folder that is excluded
is not looked into. A `!` at the beginning of an exclude takes back an earlier one, as in
.gitignore.

Pure, after the patterns are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ftpfs.errors import InvalidArgument, printable


def filter_of(includes: Sequence[str], excludes: Sequence[str]) -> Callable[[str, bool], bool]:
    """Whether a path (relative to the tree, and whether it is a folder) is taken into account.

    Without includes, all paths are. Raises InvalidArgument for a pattern that .gitignore does not
    allow.
    """
    from pathspec import GitIgnoreSpec

    def spec(patterns: Sequence[str]) -> GitIgnoreSpec:
        try:
            return GitIgnoreSpec.from_lines(patterns)
        except ValueError as error:
            raise InvalidArgument(f"not a pattern: {printable(str(error))}") from None

    wanted, unwanted = spec(includes), spec(excludes)
    takes_all = not includes

    def takes(path: str, is_folder: bool) -> bool:
        if unwanted.match_file(path + "/" if is_folder else path):
            return False
        return takes_all or is_folder or wanted.match_file(path)

    return takes
