"""Keeping: what a running mount answers to `ftpfs keep`. The work is in `core.keeping`.

Threading: any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.keeping.keeper import Keeper
from ftpfs.core.keeping.look import Outcome
from ftpfs.daemon.control_socket import Answer, Reply, Request, path_in
from ftpfs.model.entry import Kind


def answers(filesystem: Filesystem) -> Mapping[str, Answer]:
    """The generator of replies for each question about what is kept."""

    def keep(request: Request) -> Iterator[Reply]:
        """Keep a path. Unless `later`, look at it now: replies tell the progress, the last one
        the outcome."""
        keeper, path = _keeper_of(filesystem), path_in(request)
        if filesystem.attributes(path).kind not in (Kind.FILE, Kind.DIRECTORY):
            raise errors.InvalidArgument(f"{path}: neither a file nor a folder")
        if request.get("later"):
            return keeper.add(path)
        for step in keeper.keep(path):
            yield asdict(step) if isinstance(step, Outcome) else step._asdict()

    def drop(request: Request) -> Iterator[Reply]:
        _keeper_of(filesystem).drop(path_in(request))
        yield {}

    def kept(_request: Request) -> Iterator[Reply]:
        for each in _keeper_of(filesystem).kept():
            yield {"kept": asdict(each)}

    return {"keep": keep, "drop": drop, "kept": kept}


def _keeper_of(filesystem: Filesystem) -> Keeper:
    if filesystem.keeper is None:
        raise errors.NotSupported("this mount has no store: mount it with cache_size=SIZE")
    return filesystem.keeper
