"""The server that `ftpfs sh` holds: the commands typed there use its connections.

Owns the folder that the user is in, and what a word means there: a path on that server. `connected`
looks for it in click's meta, which is shared by a command and those within it.

Threading: the main thread.
"""

from __future__ import annotations

import dataclasses
import posixpath
from typing import TYPE_CHECKING, Any

import click

from ftpfs.settings.source import Source

if TYPE_CHECKING:
    from ftpfs.ftp.remote import Remote

_META = "ftpfs.held"


@dataclasses.dataclass
class Held:
    """A server that is connected. `cwd`: the folder on it, as a path of `remote`.

    `root`: as `files.locate` gives it. `owner`: in the names of temporary files.
    """

    remote: Remote
    url: Source
    root: str
    owner: str
    cwd: str = "/"

    def path(self, word: str) -> str:
        """The path that a word means."""
        return posixpath.normpath(posixpath.join(self.cwd, word))

    def source(self, word: str) -> Source:
        """What a command gets for this word, where it expects a URL."""
        path = self.path(word)
        slash = "/" if word.endswith("/") and path != "/" else ""
        inside = path if self.root else path.lstrip("/")
        return dataclasses.replace(self.url, path=f"{inside}{slash}")


def hold(context: click.Context, server: Held) -> None:
    context.meta[_META] = server


def held(context: click.Context | None = None) -> Held | None:
    """The server of the shell that this command was typed in; None: it was not."""
    context = context or click.get_current_context(silent=True)
    found: Any = context.meta.get(_META) if context is not None else None
    return found if isinstance(found, Held) else None
