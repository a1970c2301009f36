"""Changes on a server without a mount: `ftpfs mkdir`, `rm`, `mv`, `cp`, `touch`, `chmod`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ftpfs.commands import arguments
from ftpfs.commands.connected import command, connected, new_owner, paths_on_one_server
from ftpfs.commands.transfer import jobs_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftpfs.settings.source import Source

_urls = click.argument("urls", nargs=-1, required=True, metavar="URL...", type=arguments.SOURCE)


@command("mkdir")
@_urls
@click.option("-p", "parents", is_flag=True, help="Make those above, too; existing ones are fine.")
def mkdir(urls: Sequence[Source], parents: bool, **flags: Any) -> int:
    """Make folders on a server."""
    from ftpfs.commands import changes

    paths = paths_on_one_server(list(urls))
    with connected(urls[0], flags) as (remote, _):
        return changes.mkdir(remote, paths, parents=parents)


@command("rm")
@_urls
@click.option("-r", "--recursive", is_flag=True, help="Delete folders with all that is in them.")
@click.option("-f", "--force", is_flag=True, help="Do not mind what does not exist.")
@jobs_option
def rm(urls: Sequence[Source], recursive: bool, force: bool, jobs: int | None, **flags: Any) -> int:
    """Delete files on a server.

    A URL may have wildcards (quote them). A link is deleted itself.
    """
    from ftpfs.commands import changes

    paths = paths_on_one_server(list(urls))
    if "/" in paths:
        raise arguments.Misuse("the root of a server is not deleted")
    with connected(urls[0], flags) as (remote, _):
        return changes.rm(remote, paths, recursive=recursive, force=force, jobs=jobs)


@command("mv")
@_urls
def mv(urls: Sequence[Source], **flags: Any) -> int:
    """Rename, or move files into a folder of the same server.

    The last URL is the new name, or a folder. A file of the new name is
    replaced.
    """
    from ftpfs.commands import changes

    if len(urls) < 2:
        raise arguments.Misuse("expected two URLs or more")
    paths = paths_on_one_server(list(urls))
    with connected(urls[0], flags) as (remote, _):
        return changes.mv(remote, paths[:-1], paths[-1])


@command("cp")
@_urls
@click.option("-r", "--recursive", is_flag=True, help="Copy folders with all that is in them.")
@jobs_option
def cp(urls: Sequence[Source], recursive: bool, jobs: int | None, **flags: Any) -> int:
    """Copy files on a server, by the rule of cp.

    The last URL is the new name, or a folder. Where the server can copy (SITE
    CPFR), it does; else the files come here and go back. Times and modes are
    kept. A URL may have wildcards (quote them).
    """
    from ftpfs.commands import trees
    from ftpfs.daemon import leftovers

    if len(urls) < 2:
        raise arguments.Misuse("expected two URLs or more")
    paths = paths_on_one_server(list(urls))
    into = urls[-1].path.endswith("/") or not urls[-1].path
    owner = new_owner()
    with (
        connected(urls[0], flags, owner=owner) as (remote, _),
        leftovers.Note(remote, owner) as note,
    ):
        how = {"into": into, "recursive": recursive}
        return trees.cp(remote, paths[:-1], paths[-1], note, jobs=jobs, **how)


@command("touch")
@_urls
def touch(urls: Sequence[Source], **flags: Any) -> int:
    """Set the times of files to now; make empty files that do not exist."""
    from ftpfs.commands import changes

    paths = paths_on_one_server(list(urls))
    with connected(urls[0], flags) as (remote, _):
        return changes.touch(remote, paths)


@command("chmod")
@click.argument("mode")
@_urls
def chmod(mode: str, urls: Sequence[Source], **flags: Any) -> int:
    """Set the MODE (octal, for example 644) of files on a server."""
    from ftpfs.commands import changes

    try:
        bits = int(mode, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o7777:
        raise arguments.Misuse("MODE is an octal number, such as 644")
    paths = paths_on_one_server(list(urls))
    with connected(urls[0], flags) as (remote, _):
        return changes.chmod(remote, paths, bits)
