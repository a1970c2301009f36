"""The overlay: what steps have made of the names that the server told last. Pure.

The listings that are stored stay what the server told. The overlay says, for each path as programs
see it now, where that name was when the server told its folder (its *origin*), or that it was made
here, or that it is gone. A folder that was renamed has one node; what is below it follows.

Threading: the caller's lock guards it (`waiting`). No I/O.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace

from ftpfs.core.offline.steps import Act, Step
from ftpfs.model.entry import Entry, FolderAttributes, Kind
from ftpfs.model.names import split


@dataclass
class Node:
    """One name as it is now.

    Attributes:
        origin: its path when the server told it; None: it was made here.
        entry: what is known of it by a step; None: what the server told at `origin`.
        changes: the names in it that steps have changed; None: gone.
        attributes: the mode and time that were set.
    """

    origin: str | None
    entry: Entry | None = None
    changes: dict[str, Node | None] = field(default_factory=dict)
    mode: int | None = None
    mtime: int | None = None

    def shown(self, name: str, told: Entry | None) -> Entry | None:
        """Its entry under `name`; `told`: what the server told at its origin."""
        entry = self.entry or told
        if entry is None:
            return None
        if self.mode is not None:
            entry = replace(entry, mode=self.mode)
        if self.mtime is not None:
            entry = replace(entry, mtime=self.mtime, exact=True)
        return entry if entry.name == name else replace(entry, name=name)


class Overlay:
    """The names of one server, with steps laid over them."""

    def __init__(self) -> None:
        self._root = Node("/")

    def find(self, path: str) -> Node | None:
        """The node at `path`; None: steps have taken the name away, or a folder above it.

        A node with an origin says nothing about whether the server has told that name.
        """
        node = self._root
        for name in _parts(path):
            below = self._below(node, name)
            if below is None:
                return None
            node = below
        return node

    def origin(self, path: str) -> str | None:
        """Where the content at `path` was when the server told it; None: nowhere."""
        node = self.find(path)
        return node.origin if node is not None else None

    def apply(self, step: Step) -> None:
        """Lay one more step over the names."""
        if step.act is Act.RENAME:
            moved = self._made(step.path)
            moved.entry = step.known if moved.entry is None else moved.entry
            self._put(step.path, None)
            self._put(step.new, moved)
        elif step.act is Act.MKDIR:
            if step.attributes is not None:
                self._set(step.attributes)
            entry = Entry(split(step.path)[1], Kind.DIRECTORY, 0, int(step.since))
            self._put(step.path, Node(None, entry))
        elif step.act is Act.SET:
            if step.attributes is not None:
                self._set(step.attributes)
        else:
            self._put(step.path, None)

    def _set(self, attributes: FolderAttributes) -> None:
        node = self._made(attributes.path)
        if attributes.mode is not None:
            node.mode = attributes.mode
        if attributes.mtime is not None:
            node.mtime = attributes.mtime

    def _put(self, path: str, node: Node | None) -> None:
        parent, name = split(path)
        self._made(parent).changes[name] = node

    def _made(self, path: str) -> Node:
        """The node at `path`, which from now on is kept."""
        node = self._root
        for name in _parts(path):
            below = self._below(node, name) or Node(None)
            node.changes[name] = below
            node = below
        return node

    @staticmethod
    def _below(node: Node, name: str) -> Node | None:
        if name in node.changes:
            return node.changes[name]
        return Node(posixpath.join(node.origin, name)) if node.origin is not None else None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]
