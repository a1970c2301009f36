"""`ftpfs find`, `du`, `tree` and `stat`: what is in a tree on a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ftpfs.commands import arguments
from ftpfs.commands.connected import command, connected, paths_on_one_server

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@command("tree")
@click.argument("url", type=arguments.SOURCE)
@click.option("-a", "dotfiles", is_flag=True, help="Show names that begin with a dot.")
@click.option("-d", "folders_only", is_flag=True, help="Show only folders.")
@click.option("-L", "levels", type=click.IntRange(1), metavar="N", help="Show N levels at most.")
def tree(url: Source, dotfiles: bool, folders_only: bool, levels: int | None, **flags: Any) -> int:
    """Draw the tree of the folder at URL."""
    from ftpfs.commands import drawing

    with connected(url, flags) as (remote, path):
        looks = drawing.Looks(dotfiles=dotfiles, folders_only=folders_only, levels=levels)
        return drawing.draw(remote, path, sys.stdout, looks)


@command("stat")
@click.argument("urls", nargs=-1, required=True, metavar="URL...", type=arguments.SOURCE)
@click.option(
    "-c",
    "--format",
    "form",
    metavar="FORMAT",
    help="Print a line like this for each: %n name, %s size, %F kind, %a and %A mode, %Y and %y "
    "time, %N name and target of a link.",
)
def stat(urls: Sequence[Source], form: str | None, **flags: Any) -> int:
    """Show what the server tells of files and folders.

    What it does not tell is a question mark. A URL may have wildcards (quote
    them). Times are in UTC.
    """
    from ftpfs.commands import facts

    paths = paths_on_one_server(list(urls))
    with connected(urls[0], flags) as (remote, _):
        return facts.show(remote, paths, sys.stdout, form)
