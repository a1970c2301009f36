"""Files and folders of a server without a mount: `ftpfs ls`, `cat`, `get`, `put`, `cmd`."""

from __future__ import annotations

import contextlib
import os
import posixpath
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ftpfs.commands import arguments
from ftpfs.commands.connected import command, connected, new_owner, paths_on_one_server
from ftpfs.settings.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftpfs.daemon.leftovers import Note
    from ftpfs.ftp.remote import Remote

_text = click.option("--text", is_flag=True, help="Transfer as text and convert line ends.")
_recursive = click.option(
    "-r", "--recursive", is_flag=True, help="Copy folders with all that is in them."
)
resume_option = click.option(
    "--resume",
    is_flag=True,
    help="Leave parts of large files after an interruption, and go on with them.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Files at a time.  [default: what the link and the server take]",
)

streams_option = click.option(
    "--streams",
    type=arguments.STREAMS,
    default="auto",
    metavar="N|auto",
    help="Connections for one large file from the server.  [default: as many as are quickest]",
)


@command("ls", help_option_names=["--help"])  # -h means sizes for people, as with ls(1)
@click.argument("url", type=arguments.SOURCE)
@click.option("-l", "long", is_flag=True, help="Show mode, size and time (UTC).")
@click.option("-h", "human", is_flag=True, help="With -l: sizes in K, M and G.")
@click.option("-a", "dotfiles", is_flag=True, help="Show names that begin with a dot.")
@click.option("-R", "recursive", is_flag=True, help="List the folders in it, too.")
def ls(url: Source, long: bool, human: bool, dotfiles: bool, recursive: bool, **flags: Any) -> int:
    """List the folder (or file) at URL."""
    from ftpfs.commands import files, walks

    with connected(url, flags) as (remote, path):
        look = files.Look(long=long, human=human, dotfiles=dotfiles)
        if recursive:
            return walks.list_tree(remote, path, sys.stdout, look)
        files.list_folder(remote, path, sys.stdout, look)
        return 0


@command("cat")
@click.argument("url", type=arguments.SOURCE)
@_text
def cat(url: Source, text: bool, **flags: Any) -> None:
    """Print the file at URL."""
    from ftpfs.commands import files

    with connected(url, flags) as (remote, path):
        files.cat(remote, path, sys.stdout.buffer, text=text)


@command("get")
@click.argument("places", nargs=-1, required=True, metavar="URL... [LOCAL]", type=arguments.PLACE)
@_recursive
@_text
@resume_option
@jobs_option
@streams_option
def get(
    places: Sequence[str],
    recursive: bool,
    text: bool,
    resume: bool,
    jobs: int | None,
    streams: int | None,
    **flags: Any,
) -> int:
    """Copy the files at URL to LOCAL.

    LOCAL is a file, a folder, or - for stdout; without it, files go into the
    working directory. Several URLs, and folders with -r, go by the rule of cp:
    into LOCAL if it is a folder. A URL may have wildcards (quote them); the
    server's files are matched.
    """
    from ftpfs.commands import files, trees
    from ftpfs.trees.wildcards import has_wildcards

    words, local = (places[:-1], places[-1]) if len(places) > 1 else (places, ".")
    context = click.get_current_context()
    urls = [arguments.SOURCE.convert(word, None, context) for word in words]
    paths = paths_on_one_server(urls)
    simple = len(paths) == 1 and not (recursive or resume)
    if not simple and (local == "-" or text):
        raise arguments.Misuse("stdout and --text are for one file, from its start")
    with connected(urls[0], flags) as (remote, _):
        if not simple or has_wildcards(paths[0]):
            found = trees.expand(remote, paths)
            paths = [path for path, _entry in found]
            if not simple or len(paths) > 1:
                how = trees.How(recursive=recursive, resume=resume, jobs=jobs, streams=streams)
                return trees.get(remote, found, local, how)
        if local == "-":
            files.cat(remote, paths[0], sys.stdout.buffer, text=text)
        else:
            files.get(remote, paths[0], local, text=text, streams=streams)
        return 0


@command("put")
@click.argument("places", nargs=-1, required=True, metavar="LOCAL... URL", type=arguments.PLACE)
@_recursive
@_text
@resume_option
@jobs_option
def put(
    places: Sequence[str],
    recursive: bool,
    text: bool,
    resume: bool,
    jobs: int | None,
    **flags: Any,
) -> int:
    """Copy the files LOCAL to URL.

    LOCAL may be - for stdin. If URL is a folder, files go into it. Several
    files, and folders with -r, go by the rule of cp.
    """
    from ftpfs.commands import trees
    from ftpfs.daemon import leftovers

    if len(places) < 2:
        raise arguments.Misuse("expected LOCAL... URL")
    *locals_, word = places
    url = arguments.SOURCE.convert(word, None, click.get_current_context())
    simple = len(locals_) == 1 and not (recursive or resume)
    into = url.path.endswith("/") or not url.path
    if into and simple and locals_[0] == "-":
        raise arguments.Misuse("what comes from stdin needs a file name in the URL")
    if not simple and ("-" in locals_ or text):
        raise arguments.Misuse("stdin and --text are for one file, from its start")
    owner = new_owner()
    with contextlib.ExitStack() as stack:
        stream = None
        if simple:
            stdin = locals_[0] == "-"
            stream = sys.stdin.buffer if stdin else stack.enter_context(open(locals_[0], "rb"))
        remote, path = stack.enter_context(connected(url, flags, owner=owner))
        note = stack.enter_context(leftovers.Note(remote, owner))
        if stream is None:
            how = {"into": into, "recursive": recursive, "resume": resume}
            return trees.put(remote, locals_, path, note, jobs=jobs, **how)
        _put_one(remote, stream, locals_[0], path, note, into=into, text=text)
        return 0


def _put_one(
    remote: Remote,
    stream: BinaryIO,
    local: str,
    path: str,
    note: Note,
    *,
    into: bool,
    text: bool,
) -> None:
    from ftpfs.commands import files

    name = os.path.basename(local)
    target, mode = posixpath.join(path, name) if into else path, None
    if local != "-":
        target, mode = files.destination(remote, target, name)
    with note.uploading(target):
        files.put(remote, stream, target, mode, text=text)


@command("cmd")
@click.argument("url", type=arguments.SOURCE)
@click.argument("command")
@click.option("-v", "--verbose", is_flag=True, help="Show the server's welcome message first.")
def cmd(url: Source, command: str, verbose: bool, **flags: Any) -> int:
    """Send one raw FTP COMMAND and print the reply.

    For example PWD or 'SITE HELP'. It runs in the login folder, whatever the
    path of URL. Exits with 1 when the server refuses it.
    """
    from ftpfs.commands import files

    with connected(url, flags) as (remote, _path):
        return 0 if files.command(remote, command, sys.stdout, welcome=verbose) else 1
