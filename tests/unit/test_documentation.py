"""The pages agree with the program and with its tests.

`UPDATE_DOCS=1` writes the table of options and the man page again. docs/SEMANTICS.md is
the contract: each of its statements names the tests that check it, and these tests exist.
"""

from __future__ import annotations

import ast
import itertools
import os
import posixpath
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ftpfs.settings.config import Cache, Mount, Network, Server, Write
from ftpfs.settings.options import OPTIONS
from scripts import manual
from tests.support import hostile_server

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
OPTIONS_PAGE = ROOT / "docs" / "options.md"
CONTRACT = ROOT / "docs" / "SEMANTICS.md"
DESIGN = ROOT / "docs" / "design.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"
TITLES = {Server: "server", Network: "network", Cache: "caches", Write: "writing", Mount: "mount"}


def options_table() -> str:
    lines = ["| option | default | |", "|---|---|---|"]
    part = None
    for option in OPTIONS.values():
        if option.part is not part:
            part = option.part
            lines.append(f"| **{TITLES[part]}** | | |")
        metavar = f"={option.kind.metavar}" if option.kind else ""
        shown = f"`{option.name}{metavar}`".replace("|", "\\|")
        lines.append(f"| {shown} | {option.default} | {option.help} |")
    return "\n".join(lines) + "\n"


def test_readme_is_read_in_three_minutes() -> None:
    assert len(README.read_text().splitlines()) < 150


def test_page_of_options_lists_every_option() -> None:
    text = OPTIONS_PAGE.read_text()
    found = re.search(f"{BEGIN}(.*?){END}", text, re.DOTALL)
    assert found, "the page has no place for the options"
    if os.environ.get("UPDATE_DOCS"):
        OPTIONS_PAGE.write_text(text.replace(found.group(0), BEGIN + options_table() + END))
        return
    assert found.group(1) == options_table(), "run with UPDATE_DOCS=1"


def test_manual_page_agrees_with_the_program() -> None:
    if os.environ.get("UPDATE_DOCS"):
        manual.PAGE.write_text(manual.page())
    assert manual.PAGE.read_text() == manual.page(), "run with UPDATE_DOCS=1"


def test_man_renders_the_manual_page_without_a_warning() -> None:
    done = subprocess.run(
        ["man", "--warnings", "--local-file", str(manual.PAGE)],
        env={"PATH": os.environ["PATH"], "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    for option in OPTIONS.values():
        assert option.flag in done.stdout
    assert "Mount the server SOURCE at the folder MOUNTPOINT." in done.stdout


# The contract.


def paragraphs(page: str) -> Iterator[str]:
    """Paragraphs, lists, tables and headings in their order.

    Without the introduction and its contents, and without notes (`>`), because these promise
    nothing.
    """
    _, _, body = page.partition("\n## ")
    for paragraph in re.split(r"\n\s*\n", f"## {body}".strip()):
        if not paragraph.startswith(">"):
            yield paragraph


def without_tests(page: str) -> list[str]:
    """The statements that no line with tests follows.

    A lead-in (it ends with a colon) belongs to the list after it.
    """
    bare = []
    for part, following in itertools.pairwise([*paragraphs(page), "## end"]):
        if not part.startswith(("#", "Tests: ")) and not following.startswith("Tests: "):
            list_follows = part.endswith(":") and following.startswith("- ")
            if not list_follows:
                bare.append(part)
    return bare


def named_tests(page: str) -> set[str]:
    """What the lines with tests name: functions, and files by their paths."""
    lines = (part for part in paragraphs(page) if part.startswith("Tests: "))
    return {name for line in lines for name in re.findall(r"`(tests?[_/][\w/]+(?:\.py)?)`", line)}


@cache
def existing_tests() -> frozenset[str]:
    names = set()
    for path in (ROOT / "tests").rglob("*.py"):
        names.add(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
    return frozenset(names)


def test_each_statement_of_the_contract_names_its_tests() -> None:
    assert without_tests(CONTRACT.read_text()) == []


def test_tests_that_the_contract_names_exist() -> None:
    named = named_tests(CONTRACT.read_text())
    assert len(named) > 200
    assert named - existing_tests() == set()


@pytest.mark.parametrize(
    ("page", "bare"),
    [
        ("## Read\n\nIt works.\n\nTests: `test_a`.\n", []),
        ("## Read\n\nIt works:\n\n- here\n- there\n\nTests: `test_a`.\n", []),
        ("## Read\n\n> Nobody promises this.\n", []),
        ("## Read\n\nIt works.\n", ["It works."]),
        ("## Read\n\nIt works.\n\n### Write\n\nThis, too.\n\nTests: `test_a`.\n", ["It works."]),
        ("## Read\n\nIt works.\n\nTests: `test_a`.\n\nThis, too.\n", ["This, too."]),
        ("## Read\n\nIt works.\n\nThis, too.\n\nTests: `test_a`.\n", ["It works."]),
    ],
)
def test_statement_without_tests_is_found(page: str, bare: list[str]) -> None:
    assert without_tests(f"# Title\n\nIntroduction.\n\n{page}") == bare


def test_name_of_a_test_that_does_not_exist_is_found() -> None:
    page = (
        "# T\n\n## Read\n\nIt works.\n\nTests: `test_never_written`,\n`tests/unit/test_gone.py`.\n"
    )
    assert named_tests(page) - existing_tests() == {"test_never_written", "tests/unit/test_gone.py"}


# The tree in docs/design.md.


def modules_in_tree(page: str) -> set[str]:
    """The files that the tree names; a folder ("ftp/listing/") if it names none of its files."""
    tree = page.partition("```\nftpfs/\n")[2].partition("```")[0]
    found: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        names = re.match(r"\s*((?:[\w/]+(?:\.py|/)(?:, )?)+)", line)
        if names is None:
            continue  # the description of the line above goes on
        for name in names.group(1).rstrip(", ").split(", "):
            del folders[depth:]
            path = "/".join([*folders, name])
            found.discard("/".join(folders) + "/")
            found.add(path)
            if name.endswith("/"):
                folders.append(name.rstrip("/"))
    return found


def differences_to_tree(page: str, modules: set[str]) -> set[str]:
    """Modules that the tree lacks, and files and folders in it that do not exist."""
    tree = modules_in_tree(page)
    lacking = {m for m in modules if m not in tree and posixpath.dirname(m) + "/" not in tree}
    folders = {posixpath.dirname(m) + "/" for m in modules}
    return lacking | (tree - modules - folders)


def test_tree_on_the_design_page_names_every_module() -> None:
    package = ROOT / "ftpfs"
    modules = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert differences_to_tree(DESIGN.read_text(), modules) == set()


def test_module_that_the_tree_lacks_or_only_the_tree_has_is_found() -> None:
    page = "```\nftpfs/\n  a.py   one\n  b/     many\n  c/     two\n    d.py e\n```\n"
    assert differences_to_tree(page, {"a.py", "b/any.py", "c/d.py"}) == set()
    assert differences_to_tree(page, {"a.py", "b/any.py", "c/d.py", "c/new.py"}) == {"c/new.py"}
    assert differences_to_tree(page, {"b/any.py", "c/d.py"}) == {"a.py"}


# Links between the pages, and what pages name.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:tests|ftpfs|scripts|docs)/[\w./-]+)", text):
        assert (ROOT / path.rstrip(".")).exists(), path
    existing = existing_tests() | {Path(name).name for name in existing_tests()}
    invented = {"test_upload_resumes_after_connection_is_cut"}  # CONTRIBUTING's example of a name
    assert set(re.findall(r"`(test_\w+(?:\.py)?)`", text)) <= existing | invented


def anchors(page: str) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


def test_each_hostile_server_has_its_row() -> None:
    page = (ROOT / "docs" / "servers.md").read_text()
    table = page.partition("| server | result | peak memory")[2].partition("\n\n")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    modes = [*hostile_server.LISTINGS, *hostile_server.UNASKED]
    assert rows == [*modes, "endless-file", *hostile_server.REPLIES]


def test_nobody_is_told_to_install_the_project_of_that_name_from_the_index() -> None:
    """It is another one. This one is `ftpfs-mount`. A message may tell to uninstall the other."""
    sources = sorted((ROOT / "ftpfs").rglob("*.py"))
    told = re.compile(r"(?:pipx?3?|uv tool|uv pip) install[^\n`]*\bftpfs(?!-mount)")
    found = [path.name for path in [*PAGES, *sources] if told.search(path.read_text())]
    assert not found
