"""A server for the duration of one command, without a mount.

Threading: the main thread; it sets the handlers of SIGTERM and SIGHUP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ftpfs.commands import arguments
from ftpfs.commands.held import held
from ftpfs.settings.source import Source

if TYPE_CHECKING:
    from ftpfs.ftp.remote import Remote


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with the flags of a connection. `settings`: click's, for its context."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        flags = arguments.takes_flags(*arguments.CONNECTION, arguments.LOG_LEVEL)
        with_flags = arguments.takes_config(flags(function))
        return click.command(name, context_settings=settings)(with_flags)

    return decorate


@contextlib.contextmanager
def connected(
    url: Source, flags: dict[str, Any], *, owner: str | None = None
) -> Iterator[tuple[Remote, str]]:
    """The server of `url`, and the path on it. `owner` marks temporary files there."""
    from ftpfs.commands import files

    if (shell := held()) is not None:
        if arguments.values_of(flags):
            raise arguments.Misuse("options of the connection are given to ftpfs sh itself")
        yield shell.remote, files.locate(url.path)[1]
        return
    from ftpfs.daemon import leftovers, places
    from ftpfs.ftp.connections.neighbours import Neighbours
    from ftpfs.ftp.remote import Remote

    values = arguments.values_of(flags)
    arguments.log_to_terminal(values)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _terminate)
    root, path = files.locate(url.path)
    config = arguments.build(dataclasses.replace(url, path=root), values)
    what = f"ftpfs {click.get_current_context().info_name}"
    neighbours = Neighbours(places.neighbours_folder(config.server), what)
    remote = Remote(config.server, config.network, owner=owner, neighbours=neighbours)
    try:
        remote.connect()
        leftovers.clean_up(remote)
        yield remote, path
    finally:
        remote.close()


def new_owner() -> str:
    """Eight hex digits in the names of the temporary files of this command."""
    shell = held()
    return shell.owner if shell is not None else secrets.token_hex(4)


def paths_on_one_server(urls: list[Source]) -> list[str]:
    """The paths of several URLs of one server. Raises Misuse if there are two servers."""
    from ftpfs.commands import files

    places = [files.locate(url.path) for url in urls]
    servers = [
        dataclasses.replace(url, path=root) for url, (root, _) in zip(urls, places, strict=True)
    ]
    if any(server != servers[0] for server in servers):
        raise arguments.Misuse("the sources of one command are on one server, below one root")
    return [path for _, path in places]


def _terminate(number: int, _frame: object) -> NoReturn:
    """Leave by an exception, so that the clean-up of half-written files runs."""
    raise SystemExit(128 + number)
