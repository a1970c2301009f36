"""The reason of a refusal, when the server changes while it is looked for."""

from __future__ import annotations

from typing import cast

from ftpfs import errors
from ftpfs.ftp.looking import Looking
from ftpfs.ftp.reasons import Reasons
from ftpfs.model.entry import Entry, Kind


class Looks:
    """Answers each question about a path with the next of its answers."""

    def __init__(self, **answers: list[Entry | None]) -> None:
        self._answers = answers

    def find(self, path: str) -> Entry | None:
        return self._answers[path[1:] or "root"].pop(0)


def test_folder_that_appears_between_two_looks_exists() -> None:
    folder = Entry("d", Kind.DIRECTORY)
    looks = Looks(d=[None, folder], root=[Entry("", Kind.DIRECTORY)])
    reason = Reasons(cast("Looking", looks)).not_made("/d")
    assert isinstance(reason, errors.Exists)
