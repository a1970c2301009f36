"""`ftpfs cache`: what is stored on this machine's disk, and how to be rid of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ftpfs.commands import arguments
from ftpfs.settings.source import Source, parse_source

_FOLDER = "ftpfs.cache_dir"  # the key in click's meta for the value of --cache-dir


@click.group(invoke_without_command=True)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PATH",
    help="The folder, if mounts have the option cache_dir.",
)
@click.pass_context
def cache(context: click.Context, cache_dir: Path | None) -> None:
    """Show what is stored of each server on this machine's disk.

    For each server: the disk space, that of what is kept, the number of files,
    and how many of the blocks that were asked for were there.
    """
    context.meta[_FOLDER] = cache_dir
    if context.invoked_subcommand is None:
        from ftpfs.commands import show
        from ftpfs.daemon import stores

        show.stores(stores.stored(cache_dir), sys.stdout)


@cache.command()
@click.argument("server", type=arguments.SOURCE, required=False)
@click.option("--kept", is_flag=True, help="Delete what is kept, too; nothing is kept any more.")
@arguments.takes_config
@click.pass_context
def clear(context: click.Context, server: Source | None, kept: bool) -> None:
    """Delete what is stored of SERVER.

    Without SERVER, deletes what is stored of all servers. What is kept stays,
    unless --kept is given. Mounts need not end for it.
    """
    from ftpfs.commands import show
    from ftpfs.daemon import stores
    from ftpfs.errors import NotFound

    freed = stores.clear(
        context.meta[_FOLDER],
        lambda url: server is None or _is_meant(parse_source(url), server),
        kept=kept,
    )
    if server is not None and not freed:
        raise NotFound(f"nothing is stored of {server.host}")
    show.freed(freed, sys.stdout)


def _is_meant(known: Source, server: Source) -> bool:
    """Whether `server` stands for that address: in all that it says."""
    wanted = ("port", server.port), ("user", server.user), ("path", server.path)
    return known.host == server.host and all(
        getattr(known, name) == value for name, value in wanted if value
    )
