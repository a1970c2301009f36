"""The README's table of options is the options' own; `UPDATE_DOCS=1` writes it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ftpfs.config import OPTIONS, Cache, Mount, Network, Server

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"
TITLES = {Server: "server", Network: "network", Cache: "caches", Mount: "mount"}


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
