"""Imports run one way, and sockets, TLS and FUSE are each touched in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ftpfs

PACKAGE = Path(ftpfs.__file__).parent

# Each may import those below it, and its own kind.
LAYERS = [
    {"cli", "__main__"},
    {"show"},
    {"demo", "serve", "transfer", "manage", "mount", "doctor"},
    {"logs"},
    {"systemd"},
    {"bars"},
    {"named"},
    {"running"},
    {"control", "mountpoints"},
    {"fuse"},
    {"core"},
    {"ftp"},
    {"config"},
    {"secrecy"},
    {"credentials"},
    {"errors"},
    {"__init__"},
]
# Arrows inside a layer that must not be.
ASIDE = {("mount", "demo"), ("mount", "serve"), ("mount", "transfer")}
# Not told by layers: what the core takes from ftp are words, not conversations.
CORE_TAKES = {
    "ftpfs.ftp.listing",
    "ftpfs.ftp.lister.HIDDEN_PREFIX",
    "ftpfs.ftp.listing.HIDDEN_PREFIX",
}
# The socket carries plain data: it knows neither a file system nor a server.
CONTROL_TAKES = {"ftpfs.errors", "ftpfs.core.status"}
STRANGERS = {"core.reader": "core.writer", "core.writer": "core.reader"}
# Who may import these, of the layers that carry the file system.
ONLY = {
    "fuse": {"fuse.binding"},
    "mfusepy": {"fuse.binding"},
    "ftplib": {"ftp.control", "ftp.session"},
    "socket": {"ftp.control", "ftp.proxy", "ftp.session", "ftp.data"},
    "ssl": {"ftp.control", "ftp.data"},
}


def modules(package: Path) -> Iterator[tuple[str, str]]:
    """Name ("core.reader") and source of each module."""
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


def layer(name: str) -> int:
    top = name.split(".")[0]
    return next(number for number, names in enumerate(LAYERS) if top in names)


def wrong_imports(name: str, source: str) -> list[str]:
    """The imports of module `name` that point the wrong way."""
    wrong = []
    for imported in imports(source):
        if name.split(".")[0] in ("core", "ftp", "fuse"):
            outside = imported.split(".")[0]
            if name not in ONLY.get(outside, {name}):
                wrong.append(imported)
        if not imported.startswith("ftpfs.") or imported == "ftpfs.__version__":
            continue
        inside = imported.removeprefix("ftpfs.")
        top = name.split(".")[0], inside.split(".")[0]
        stranger = STRANGERS.get(name)
        if (
            layer(inside) < layer(name)
            or top in ASIDE
            or (stranger and (inside + ".").startswith(stranger + "."))
            or (top == ("core", "ftp") and not _among(CORE_TAKES, imported))
            or (name == "control" and not _among(CONTROL_TAKES, imported))
        ):
            wrong.append(imported)
    return wrong


def _among(allowed: set[str], imported: str) -> bool:
    return any(imported == taken or imported.startswith(taken + ".") for taken in allowed)


def test_every_import_points_downwards() -> None:
    found = {name: wrong_imports(name, source) for name, source in modules(PACKAGE)}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_every_module_has_its_layer() -> None:
    for name, _ in modules(PACKAGE):
        layer(name)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("errors", "from ftpfs import config"),
        ("ftp.pool", "from ftpfs.core.tree import Tree"),
        ("ftp.pool", "import socket"),
        ("core.reader", "from ftpfs.core.writer import Spool"),
        ("core.writer", "from ftpfs.core import reader"),
        ("core.tree", "from ftpfs.fuse import operations"),
        ("core.filesystem", "from ftpfs.ftp.remote import Remote"),
        ("core.filesystem", "def late():\n    import ssl"),
        ("fuse.operations", "import fuse"),
        ("fuse.operations", "from ftpfs import mount"),
        ("mount", "from ftpfs import cli"),
        ("mount", "from ftpfs import serve"),
        ("control", "from ftpfs.core.filesystem import Filesystem"),
        ("control", "from ftpfs import mountpoints"),
        ("running", "from ftpfs import mount"),
        ("manage", "from ftpfs import show"),
    ],
)
def test_an_arrow_that_turns_round_is_caught(name: str, line: str) -> None:
    assert wrong_imports(name, line)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cli", "from ftpfs import mount, transfer"),
        ("mount", "from ftpfs.core.filesystem import Filesystem"),
        ("mount", "from ftpfs.running import Running"),
        ("control", "from ftpfs.core.status import MountStatus"),
        ("show", "from ftpfs import manage"),
        ("core.openfile", "from ftpfs.core.writer import Spool"),
        ("core.openfile", "from ftpfs.ftp.listing import Entry"),
        ("fuse.binding", "import mfusepy"),
        ("ftp.control", "import ftplib, socket, ssl"),
        ("serve", "import socket"),
    ],
)
def test_an_arrow_that_points_down_is_let_pass(name: str, line: str) -> None:
    assert not wrong_imports(name, line)
