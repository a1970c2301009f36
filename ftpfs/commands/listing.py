"""`ftpfs find` and `du`: what is in a tree on a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ftpfs.commands import arguments
from ftpfs.commands.connected import command, connected

if TYPE_CHECKING:
    from ftpfs.settings.source import Source


@command("find")
@click.argument("url", type=arguments.SOURCE)
@click.option("--name", metavar="PATTERN", help="Only names that match, as in a shell.")
@click.option(
    "--type", "kind", type=click.Choice(["f", "d", "l"]), help="Only files, or folders, or links."
)
def find(url: Source, name: str | None, kind: str | None, **flags: Any) -> int:
    """Print the paths of all that is in the folder at URL."""
    from ftpfs.commands import walks

    with connected(url, flags) as (remote, path):
        return walks.find(remote, path, sys.stdout, name=name, kind=kind)


@command("du", help_option_names=["--help"])  # -h as with du(1)
@click.argument("url", type=arguments.SOURCE)
@click.option("-h", "human", is_flag=True, help="Show sizes in K, M and G instead of bytes.")
@click.option("-s", "summary", is_flag=True, help="Show only the sum.")
def du(url: Source, human: bool, summary: bool, **flags: Any) -> int:
    """Print how many bytes the files in each folder below URL have."""
    from ftpfs.commands import walks

    with connected(url, flags) as (remote, path):
        return walks.sizes(remote, path, sys.stdout, human=human, summary=summary)
