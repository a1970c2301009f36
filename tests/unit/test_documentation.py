"""The README's options and the man page are the program's own; `UPDATE_DOCS=1` writes them anew."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ftpfs.config import OPTIONS, Cache, Mount, Network, Server, Write
from scripts import manual

README = Path(__file__).resolve().parents[2] / "README.md"
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


def test_the_readme_lists_every_option_as_it_is() -> None:
    text = README.read_text()
    found = re.search(f"{BEGIN}(.*?){END}", text, re.DOTALL)
    assert found, "the README has no place for the options"
    if os.environ.get("UPDATE_DOCS"):
        README.write_text(text.replace(found.group(0), BEGIN + options_table() + END))
        return
    assert found.group(1) == options_table(), "run with UPDATE_DOCS=1"


def test_the_manual_page_is_as_the_program() -> None:
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
