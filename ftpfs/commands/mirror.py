"""`ftpfs mirror`: a folder here or on a server becomes a copy of one on the other side."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpfs.commands import arguments
from ftpfs.commands.connected import command, connected, new_owner
from ftpfs.commands.transfer import jobs_option, resume_option, streams_option
from ftpfs.settings import values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftpfs.trees.plan import Rules


@command("mirror")
@click.argument("source", type=arguments.PLACE)
@click.argument("dest", type=arguments.PLACE)
@click.option("--delete", is_flag=True, help="Delete in DEST what SOURCE does not have.")
@click.option("-y", "--yes", is_flag=True, help="Delete without a question.")
@click.option("-n", "--dry-run", "dry", is_flag=True, help="Only print what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print each step as a line of JSON.")
@click.option(
    "--include",
    "includes",
    multiple=True,
    metavar="PATTERN",
    help="Take only files that match, in the syntax of .gitignore. May be repeated.",
)
@click.option(
    "--exclude",
    "excludes",
    multiple=True,
    metavar="PATTERN",
    help="Leave out, and do not delete, what matches. May be repeated.",
)
@click.option(
    "--exclude-from",
    "exclude_files",
    multiple=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Read such patterns from a file.",
)
@click.option(
    "--newer-than", metavar="TIME", help="Take only files changed in this time, for example 7d."
)
@click.option(
    "--checksum",
    is_flag=True,
    help="Compare files of one size by the server's checksums, not by time.",
)
@resume_option
@jobs_option
@streams_option
def mirror(
    source: str,
    dest: str,
    delete: bool,
    yes: bool,
    dry: bool,
    as_json: bool,
    includes: Sequence[str],
    excludes: Sequence[str],
    exclude_files: Sequence[Path],
    newer_than: str | None,
    checksum: bool,
    resume: bool,
    jobs: int | None,
    streams: int | None,
    **flags: Any,
) -> int:
    """Make the folder DEST a copy of the folder SOURCE.

    One of the two is on a server. Only files of another size, or with a later
    time, are copied; run it again after an interruption and it goes on. A
    local folder that could be taken for a server is written ./NAME.

    With --delete, what SOURCE does not have is deleted in DEST, unless a folder
    could not be listed. Exits with 1 when something failed.
    """
    from ftpfs.commands import trees
    from ftpfs.daemon import leftovers

    context = click.get_current_context()
    if delete and not (yes or dry or trees.has_terminal()):
        raise arguments.Misuse("nobody can be asked before files are deleted: add --yes")
    rules = _rules(delete, includes, excludes, exclude_files, newer_than)
    rules = dataclasses.replace(rules, checksum=checksum)
    how = trees.How(recursive=True, resume=resume, jobs=jobs, streams=streams)
    wishes = trees.Wishes(rules=rules, yes=yes, dry=dry, as_json=as_json, how=how)
    if _is_local(source, dest, context):
        url = arguments.SOURCE.convert(dest, None, context)
        owner = new_owner()
        with (
            connected(url, flags, owner=owner) as (remote, path),
            leftovers.Note(remote, owner) as note,
        ):
            return trees.send_tree(remote, source, path, note, wishes)
    url = arguments.SOURCE.convert(source, None, context)
    with connected(url, flags) as (remote, path):
        return trees.fetch_tree(remote, path, dest, wishes)


def _rules(
    delete: bool,
    includes: Sequence[str],
    excludes: Sequence[str],
    exclude_files: Sequence[Path],
    newer_than: str | None,
) -> Rules:
    from ftpfs.trees.filters import filter_of
    from ftpfs.trees.plan import Rules

    patterns = list(excludes)
    for file in exclude_files:
        patterns += file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    since = None
    if newer_than is not None:
        try:
            since = time.time() - float(str(values.TIME.parse(newer_than)))
        except ValueError as error:
            raise arguments.Misuse(f"--newer-than: {error}") from None
    if not includes and not patterns:
        return Rules(changed_only=True, delete=delete, newer_than=since)
    takes = filter_of(includes, patterns)
    return Rules(changed_only=True, delete=delete, newer_than=since, takes=takes)


# Which of the two is on this machine.


def _is_local(source: str, dest: str, context: click.Context) -> bool:
    """Whether SOURCE is the local folder, and DEST the server's. Raises Misuse if that is unclear.

    What is clear of one decides about the other.
    """
    sides = _side(source, context), _side(dest, context)
    if sides in ((True, False), (True, None), (None, False)):
        return True
    if sides in ((False, True), (None, True), (False, None)):
        return False
    if sides == (None, None):
        raise arguments.Misuse("which of the two is on this machine? write it as ./NAME")
    where = "this machine" if sides[0] else "a server"
    raise arguments.Misuse(f"both folders are on {where}; one has to be on the other side")


def _side(word: str, context: click.Context) -> bool | None:
    """True: surely a local path. False: surely a server. None: it may be either."""
    if "://" in word:
        return False
    first = word.partition("/")[0]
    if first in ("", ".", "..", "~"):
        return True
    from ftpfs.settings import named

    if first in named.names(arguments.config_file(context)) or "@" in first or ":" in first:
        return False
    return None
