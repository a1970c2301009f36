"""Imports run one way, and sockets, TLS and FUSE are each touched in one place."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ftpfs

PACKAGE = Path(ftpfs.__file__).parent

# What each room may import, besides itself. The arrows run downwards only, and the core knows a
# server by the protocol in `model.remote` alone.
ROOMS = {
    "commands": {"daemon", "trees", "ftp", "settings", "local", "model"},
    "api": {"daemon", "core", "ftp", "settings", "local", "model"},
    "daemon": {"fuse", "core", "ftp", "settings", "local", "model"},
    "trees": {"ftp", "local", "model"},
    "fuse": {"core", "model"},
    "core": {"settings", "local", "model"},
    "ftp": {"settings", "local", "model"},
    "settings": {"model"},
    "local": {"model"},
    "model": set[str](),
}
# Modules beside the rooms: the door of the commands, and what every room may import.
BESIDE = {"__main__": "commands", "cli": "commands", "errors": "model"}
# Reading and writing know of each other through open files alone.
STRANGERS = {"core.reading.reader": "core.writing", "core.writing.spool": "core.reading"}
# Who may import these, of the layers that carry the file system.
ONLY = {
    "fuse": {"fuse.binding"},
    "mfusepy": {"fuse.binding"},
    "ftplib": {"ftp.connections.control", "ftp.connections.login"},
    "socket": {
        "ftp.connections.addresses",
        "ftp.connections.channels",
        "ftp.connections.passive",
        "ftp.connections.control",
        "ftp.connections.proxy",
        "ftp.connections.session",
        "ftp.connections.starting",
        "ftp.connections.transfers",
    },
    "ssl": {"ftp.connections.control", "ftp.connections.transfers"},
}


def modules(package: Path) -> Iterator[tuple[str, str]]:
    """Name ("core.reading.reader") and source of each module."""
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path.read_text()


def imports(source: str) -> Iterator[str]:
    """Everything that is imported, anywhere in the module, as dotted names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    top = name.split(".")[0]
    return BESIDE.get(top, top)


def wrong_imports(name: str, source: str) -> list[str]:
    """The imports of module `name` that point the wrong way."""
    own = room(name)
    return [imported for imported in imports(source) if not _may(name, own, imported)]


def _may(name: str, own: str, imported: str) -> bool:
    if not imported.startswith("ftpfs."):
        keepers = ONLY.get(imported.split(".")[0])
        return own not in ("core", "ftp", "fuse") or keepers is None or name in keepers
    inside = imported.removeprefix("ftpfs.")
    if inside == "__version__":
        return True
    stranger = STRANGERS.get(name)
    if stranger and (inside + ".").startswith(stranger + "."):
        return False
    return room(inside) == own or room(inside) in ROOMS[own]


def test_every_import_points_downwards() -> None:
    found = {
        name: wrong_imports(name, source) for name, source in modules(PACKAGE) if name != "__init__"
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_no_imports_form_a_circle() -> None:
    """Imports for types count, too: two modules that know each other are one module."""
    sources = dict(modules(PACKAGE))
    graph = {
        name: {found for imported in imports(source) if (found := _module(imported, sources))}
        for name, source in sources.items()
    }
    assert list(TopologicalSorter(graph).static_order())


def _module(imported: str, known: Collection[str]) -> str | None:
    """The module that is meant by "ftpfs.core.names.tree.Tree"; a package's own face is none."""
    inside = imported.removeprefix("ftpfs.")
    while inside and inside not in known:
        inside = inside.rpartition(".")[0]
    return inside if imported.startswith("ftpfs.") else None


def test_every_module_has_its_room() -> None:
    assert {room(name) for name, _ in modules(PACKAGE)} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("errors", "from ftpfs.settings import config"),
        ("ftp.connections.pool", "from ftpfs.core.names.tree import Tree"),
        ("ftp.connections.pool", "import socket"),
        ("core.reading.reader", "from ftpfs.core.writing.spool import Spool"),
        ("core.writing.spool", "from ftpfs.core.reading import reader"),
        ("core.names.tree", "from ftpfs.fuse import operations"),
        ("core.filesystem", "from ftpfs.ftp.remote import Remote"),
        ("core.filesystem", "from ftpfs.ftp import listing"),
        ("core.filesystem", "def late():\n    import ssl"),
        ("fuse.operations", "import fuse"),
        ("fuse.operations", "from ftpfs.daemon import mount"),
        ("daemon.mount", "from ftpfs import cli"),
        ("daemon.mount", "from ftpfs.commands import embedded_server"),
        ("model.entry", "from ftpfs.ftp.listing import parse_list"),
    ],
)
def test_import_that_points_up_is_caught(name: str, line: str) -> None:
    assert wrong_imports(name, line)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cli", "from ftpfs.commands import arguments"),
        ("daemon.mount", "from ftpfs.core.filesystem import Filesystem"),
        ("daemon.mount", "from ftpfs.daemon.running import Running"),
        ("daemon.control_socket", "from ftpfs.model.status import MountStatus"),
        ("commands.show", "from ftpfs.commands import mounts"),
        ("core.files.openfile", "from ftpfs.core.writing.spool import Spool"),
        ("core.files.openfile", "from ftpfs.model.entry import Entry"),
        ("fuse.binding", "import mfusepy"),
        ("ftp.connections.control", "import ftplib, socket, ssl"),
        ("commands.embedded_server", "import socket"),
    ],
)
def test_import_that_points_down_passes(name: str, line: str) -> None:
    assert not wrong_imports(name, line)
