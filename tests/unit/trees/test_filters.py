"""Which names of a tree are taken into account."""

from __future__ import annotations

import pytest

from ftpfs.errors import InvalidArgument
from ftpfs.trees.filters import filter_of


@pytest.mark.parametrize(
    ("includes", "excludes", "taken", "left_out"),
    [
        ([], [], ["a", "d/", "d/a"], []),
        ([], ["*.o"], ["a.c", "d/"], ["a.o", "d/a.o"]),
        ([], ["build/"], ["build", "a/b"], ["build/", "a/build/"]),
        ([], ["/top"], ["a/top"], ["top"]),
        ([], ["*.o", "!keep.o"], ["keep.o"], ["a.o"]),
        ([], ["# a comment", "", "x"], ["# a comment"], ["x"]),
        (["*.jpg"], [], ["a.jpg", "d/", "d/b.jpg"], ["a.png", "d/b"]),
        (["*.jpg"], ["draft*"], ["a.jpg", "d/"], ["draft.jpg", "drafts/"]),
        (["docs/"], [], ["docs/a", "other/"], ["a"]),
    ],
)
def test_patterns_decide_as_in_gitignore(
    includes: list[str], excludes: list[str], taken: list[str], left_out: list[str]
) -> None:
    takes = filter_of(includes, excludes)
    for path in taken:
        assert takes(path.rstrip("/"), path.endswith("/")), path
    for path in left_out:
        assert not takes(path.rstrip("/"), path.endswith("/")), path


def test_pattern_that_gitignore_does_not_allow_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="not a pattern"):
        filter_of([], ["a**/b/!/", "/**/\\", "!"])
