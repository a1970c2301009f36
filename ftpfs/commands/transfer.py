"""Commands that need no mount: `ftpfs ls`, `cat`, `get`, `put`, `cmd`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import posixpath
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ftpfs.commands import arguments
from ftpfs.settings.source import Source

if TYPE_CHECKING:
    from ftpfs.ftp.remote import Remote


def _command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with the flags of a connection."""

    # For `ls`, -h means sizes for people, as with ls(1), and not help.
    words = {"help_option_names": ["--help"]} if name == "ls" else None

    def decorate(function: Callable[..., Any]) -> click.Command:
        flags = arguments.takes_flags(*arguments.CONNECTION, arguments.LOG_LEVEL)
        return click.command(name, context_settings=words)(arguments.takes_config(flags(function)))

    return decorate


_text = click.option("--text", is_flag=True, help="Transfer as text and convert line ends.")


@_command("ls")
@click.argument("url", type=arguments.SOURCE)
@click.option("-l", "long", is_flag=True, help="Show mode, size and time (UTC).")
@click.option("-h", "human", is_flag=True, help="With -l: sizes in K, M and G.")
@click.option("-a", "dotfiles", is_flag=True, help="Show names that begin with a dot.")
def ls(url: Source, long: bool, human: bool, dotfiles: bool, **flags: Any) -> None:
    """List the folder (or file) at URL."""
    from ftpfs.commands import files

    with _connected(url, flags) as (remote, path):
        look = files.Look(long=long, human=human, dotfiles=dotfiles)
        files.list_folder(remote, path, sys.stdout, look)


@_command("cat")
@click.argument("url", type=arguments.SOURCE)
@_text
def cat(url: Source, text: bool, **flags: Any) -> None:
    """Print the file at URL."""
    from ftpfs.commands import files

    with _connected(url, flags) as (remote, path):
        files.cat(remote, path, sys.stdout.buffer, text=text)


@_command("get")
@click.argument("url", type=arguments.SOURCE)
@click.argument("local", default=".")
@_text
def get(url: Source, local: str, text: bool, **flags: Any) -> None:
    """Copy the file at URL to LOCAL.

    LOCAL is a file, a folder, or - for stdout.
    """
    from ftpfs.commands import files

    with _connected(url, flags) as (remote, path):
        if local == "-":
            files.cat(remote, path, sys.stdout.buffer, text=text)
        else:
            files.get(remote, path, local, text=text)


@_command("put")
@click.argument("local")
@click.argument("url", type=arguments.SOURCE)
@_text
def put(local: str, url: Source, text: bool, **flags: Any) -> None:
    """Copy the file LOCAL to URL.

    LOCAL may be - for stdin. If URL ends with /, the file goes into that folder.
    """
    from ftpfs.commands import files, leftovers

    into = url.path.endswith("/") or not url.path
    if into and local == "-":
        raise arguments.Misuse("what comes from stdin needs a file name in the URL")
    owner = secrets.token_hex(4)
    with (
        contextlib.nullcontext(sys.stdin.buffer) if local == "-" else open(local, "rb") as stream,
        _connected(url, flags, owner=owner) as (remote, path),
    ):
        target = posixpath.join(path, os.path.basename(local)) if into else path
        with leftovers.Note(url, target, owner) as note:
            note.clean_up(remote)
            files.put(remote, stream, target, text=text)


@_command("cmd")
@click.argument("url", type=arguments.SOURCE)
@click.argument("command")
@click.option("-v", "--verbose", is_flag=True, help="Show the server's welcome message first.")
def cmd(url: Source, command: str, verbose: bool, **flags: Any) -> int:
    """Send one raw FTP COMMAND and print the reply.

    For example PWD or 'SITE HELP'. It runs in the login folder, whatever the
    path of URL. Exits with 1 when the server refuses it.
    """
    from ftpfs.commands import files

    with _connected(url, flags) as (remote, _path):
        return 0 if files.command(remote, command, sys.stdout, welcome=verbose) else 1


@contextlib.contextmanager
def _connected(
    url: Source, flags: dict[str, Any], *, owner: str | None = None
) -> Iterator[tuple[Remote, str]]:
    """The server of `url`, and the path on it. `owner` marks temporary files there."""
    from ftpfs.commands import files
    from ftpfs.ftp.remote import Remote

    values = arguments.values_of(flags)
    arguments.log_to_terminal(values)
    signal.signal(signal.SIGTERM, _terminate)
    root, path = files.locate(url.path)
    config = arguments.build(dataclasses.replace(url, path=root), values)
    remote = Remote(config.server, config.network, owner=owner)
    try:
        remote.connect()
        yield remote, path
    finally:
        remote.close()


def _terminate(number: int, _frame: object) -> NoReturn:
    """Leave by an exception, so that the clean-up of half-written files runs."""
    raise SystemExit(128 + number)
