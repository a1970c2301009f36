"""Trees without a mount: the work of `ftpfs get -r`, `put -r`, `cp` and `mirror`.

Owns: which source goes to which destination, and what is asked before files are deleted.
`ftpfs.trees` does the work, `runs` shows it.

Threading: the main thread.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import click

from ftpfs import errors
from ftpfs.commands import runs
from ftpfs.daemon.leftovers import Note
from ftpfs.errors import printable
from ftpfs.ftp.remote import Remote
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import is_within
from ftpfs.trees import wildcards
from ftpfs.trees.copying import Copying, Root, make_parents
from ftpfs.trees.duplicating import Duplicate
from ftpfs.trees.local import folds_case
from ftpfs.trees.plan import Action, Rules
from ftpfs.trees.removing import Removing
from ftpfs.trees.server import Server
from ftpfs.trees.sides import Side
from ftpfs.trees.ways import Fetch, Send, Way

# A path, and its entry if it is known.
Found = tuple[str, Entry | None]


def expand(remote: Remote, paths: Sequence[str]) -> list[Found]:
    """The paths with their wildcards expanded, each once."""
    side = Server(remote)
    found: dict[str, Entry | None] = {}
    for path in paths:
        for name, entry in wildcards.expand(side, path):
            found[name] = found.get(name) or entry
    return list(found.items())


@dataclass(frozen=True)
class How:
    """How files travel. `jobs`, `streams`: None: as many as are quickest."""

    recursive: bool = False
    resume: bool = False
    jobs: int | None = None
    streams: int | None = None


# get and put.


def get(remote: Remote, sources: Sequence[Found], local: str, how: How) -> int:
    """Copy these paths to a local one, by the rule of `cp`. Returns the exit code."""
    way = _fetch(remote, how)
    roots = _roots(way, sources, os.path.abspath(local), into=local.endswith("/"))
    rules = Rules(changed_only=how.resume, folds_case=folds_case(_existing(local)))
    return _copy(way, rules, roots, remote, recursive=how.recursive, jobs=how.jobs)


def _fetch(remote: Remote, how: How) -> Fetch:
    return Fetch(remote, resumes=how.resume, streams=how.streams, connections=how.jobs)


def put(
    remote: Remote,
    locals_: Sequence[str],
    path: str,
    note: Note,
    *,
    into: bool,
    recursive: bool,
    resume: bool,
    jobs: int | None,
) -> int:
    """Copy local paths to one on the server, by the rule of `cp`. Returns the exit code."""
    way = Send(remote, note.uploading, resumes=resume)
    places = [os.path.abspath(each) for each in locals_]
    sources: list[Found] = [(each, way.source.stat(each)) for each in places]
    roots = _roots(way, sources, path, into=into)
    return _copy(way, Rules(changed_only=resume), roots, remote, recursive=recursive, jobs=jobs)


def cp(
    remote: Remote,
    paths: Sequence[str],
    target: str,
    note: Note,
    *,
    into: bool,
    recursive: bool,
    jobs: int | None,
) -> int:
    """Copy paths on the server to another one there, by the rule of `cp`. The exit code."""
    way = Duplicate(remote, note.uploading)
    roots = _roots(way, expand(remote, paths), target, into=into)
    for root in roots:
        if root.source == root.target:
            raise errors.Exists(f"{root.source}: the old name and the new one are the same")
        if is_within(root.target, root.source):
            raise errors.InvalidArgument(f"{root.source}: a folder is not copied into itself")
    return _copy(way, Rules(), roots, remote, recursive=recursive, jobs=jobs)


def _roots(way: Way, sources: Sequence[Found], target: str, *, into: bool) -> list[Root]:
    """Each source and its destination.

    A destination folder that exists gets the sources inside it; one that does not exist becomes the
    copy of the only source. `into`: the destination is written as a folder.
    """
    there = way.target.stat(target)
    if there is None or there.kind is not Kind.DIRECTORY:
        (source, entry), *others = sources
        is_folder = entry is not None and entry.kind is Kind.DIRECTORY
        if others or (into and (there is not None or not is_folder)):
            raise errors.NotADirectory(f"{target} is not a folder")
        return [Root(source, target, entry, there)]
    names = [posixpath.basename(source.rstrip("/")) for source, _ in sources]
    if len(set(names)) < len(names):
        raise errors.Exists("two of the sources have the same name")
    # One listing in place of a look for each file: a look may be a listing, too.
    inside = {entry.name: entry for entry in way.target.list(target)} if len(names) > 1 else None
    return [
        _root(way, source, entry, target, name, inside)
        for (source, entry), name in zip(sources, names, strict=True)
    ]


def _root(
    way: Way,
    source: str,
    entry: Entry | None,
    target: str,
    name: str,
    inside: dict[str, Entry] | None,
) -> Root:
    if not name:  # the server's root: what is in it goes into the folder
        return Root(source, target)
    old = inside.get(name) if inside else None
    if inside is None or (old is not None and old.kind is Kind.LINK):  # it may lead to a folder
        return Root(source, way.target.join(target, name))
    return Root(source, way.target.join(target, name), entry, old)


def _copy(
    way: Way,
    rules: Rules,
    roots: Sequence[Root],
    remote: Remote,
    *,
    recursive: bool,
    jobs: int | None,
) -> int:
    count = jobs or way.jobs()
    copying = Copying(way, way.rules(rules), jobs=count, recursive=recursive)
    copying.start(roots)
    runs.follow(copying, remote)
    copying.finish()
    return runs.report(copying.outcome(), "copied")


def _existing(local: str) -> str:
    """The folder at or above a path that exists."""
    path = os.path.abspath(local)
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


# mirror.


@dataclass(frozen=True)
class Wishes:
    """How `mirror` was called."""

    rules: Rules
    yes: bool
    dry: bool
    as_json: bool
    how: How


def fetch_tree(remote: Remote, path: str, local: str, wishes: Wishes) -> int:
    """Make the local folder a copy of the one on the server. Returns the exit code."""
    rules = replace(wishes.rules, folds_case=folds_case(_existing(local)))
    wishes = replace(wishes, rules=rules)
    return _mirror(_fetch(remote, wishes.how), path, os.path.abspath(local), remote, wishes)


def send_tree(remote: Remote, local: str, path: str, note: Note, wishes: Wishes) -> int:
    """Make the folder on the server a copy of the local one. Returns the exit code."""
    way = Send(remote, note.uploading, resumes=wishes.how.resume)
    return _mirror(way, os.path.abspath(local), path, remote, wishes)


def _mirror(way: Way, source: str, target: str, remote: Remote, wishes: Wishes) -> int:
    entry = way.source.stat(source)
    if entry is None:
        raise errors.NotFound(f"{source}: no such folder")
    if entry.kind is not Kind.DIRECTORY:
        raise errors.NotADirectory(f"{source} is not a folder; get and put copy files")
    if not wishes.dry:
        make_parents(way.target, posixpath.dirname(target))
    printer = runs.Printer(shows=wishes.dry, as_json=wishes.as_json)
    copying = Copying(
        way,
        way.rules(wishes.rules),
        jobs=wishes.how.jobs or way.jobs(),
        dry=wishes.dry,
        tell=printer.tell,
    )
    copying.start([Root(source, target)])
    runs.follow(copying, remote)
    copying.finish()
    try:
        if deletions := copying.deletions():
            _delete(way.target, target, deletions, copying, remote, wishes, printer)
    except errors.NotPermitted as error:
        copying.tally.fail(target, error)
    outcome = copying.outcome()
    printer.end(outcome)
    return runs.report(outcome, "copied")


def _delete(
    side: Side,
    root: str,
    deletions: list[tuple[str, Entry]],
    copying: Copying,
    remote: Remote,
    wishes: Wishes,
    printer: runs.Printer,
) -> None:
    if wishes.dry:
        for path, _ in deletions:
            printer.tell(Action.DELETE, path, None)
        return
    if not (wishes.yes or _agrees(root, deletions)):
        return
    removing = Removing(
        side, jobs=wishes.how.jobs or 4, tell=printer.tell, takes=wishes.rules.takes
    )
    removing.start(deletions, root)
    runs.follow(removing, remote)
    copying.tally.take_over(removing.outcome())


def _agrees(root: str, deletions: list[tuple[str, Entry]]) -> bool:
    """Ask on the terminal. The command made sure that there is one."""
    folders = sum(entry.kind is Kind.DIRECTORY for _, entry in deletions)
    files = len(deletions) - folders
    for path, _ in deletions[:10]:
        click.echo(f"  {printable(path)}", err=True)
    if len(deletions) > 10:
        click.echo(f"  and {len(deletions) - 10:,} more", err=True)
    question = f"delete {files:,} files and {folders:,} folders with all in them, in {root}?"
    return click.confirm(printable(question), err=True)


def has_terminal() -> bool:
    """Whether a question can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()
