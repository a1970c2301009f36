"""`ftpfs queue`: what waits to be sent to the server, and how to send it now."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ftpfs.commands import arguments


@click.group()
def queue() -> None:
    """Show what waits to be sent to the server, or send it now."""


@queue.command("list")
@click.argument("path", type=arguments.PlaceType(), required=False)
def list_(path: str | None) -> int:
    """List what waits below PATH: size, age, failed attempts, last error.

    Without PATH, lists what waits on all mounts. Exits with 1 when a daemon does
    not answer.
    """
    from ftpfs.commands import mounts, show

    found, silent = mounts.queued(path)
    show.queued(found, sys.stdout)
    return _complain(silent)


@queue.command()
@click.argument("path", type=arguments.PlaceType(), required=False)
def retry(path: str | None) -> int:
    """Send now what failed below PATH or waits for its next attempt.

    Without PATH, on all mounts. Does not wait for the result: ftpfs sync does.
    Exits with 1 when a daemon does not answer.
    """
    from ftpfs.commands import mounts

    return _complain(mounts.retry(path))


def _complain(lines: Sequence[str]) -> int:
    from ftpfs.errors import printable

    for line in lines:
        click.echo(f"ftpfs: {printable(line)}", err=True)
    return 1 if lines else 0
