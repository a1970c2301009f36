"""`ftpfs sh`: a prompt on one server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ftpfs.commands import arguments
from ftpfs.commands.connected import command, connected, new_owner

if TYPE_CHECKING:
    from ftpfs.settings.source import Source


@command("sh")
@click.argument("url", type=arguments.SOURCE)
@click.option("-c", "line", metavar="COMMANDS", help="Run these, divided by semicolons, and end.")
def sh(url: Source, line: str | None, **flags: Any) -> int:
    """Type commands on the server at URL: cd, ls, get, put and others.

    Words are paths on the server. !COMMAND runs a command of this machine, and
    quote sends a raw FTP command; help lists all. With prompt_toolkit
    (pip install 'ftpfs-mount[shell]') there are history and completion. What comes
    from a pipe, or with -c, is run until the first failure.
    """
    from ftpfs.commands import files, shell
    from ftpfs.commands.held import Held

    owner = new_owner()
    with connected(url, flags, owner=owner) as (remote, path):
        server = Held(remote, url, files.locate(url.path)[0], owner)
        session = shell.Shell(server, click.get_current_context())
        if path != "/" and (code := session.execute(f"cd {shell.quoted(path)}")):
            return code
        if line is not None:
            return session.run(shell.divided(line), stops=True)
        if not sys.stdin.isatty():
            return session.run(shell.script(), stops=True)
        session.run(shell.typed(session, lambda: shell.place(server)), stops=False)
        return 0
