"""The commands that the pages show exist, with the options that stand there."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ftpfs import cli
from ftpfs.errors import InvalidArgument
from ftpfs.settings.options import OPTIONS, parse_options

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("deploy-a-web-site.md", "fetch-an-archive.md", "coming-from.md", "guide.md")


def commands(page: str) -> Iterator[str]:
    """The lines `$ ftpfs ...` of console blocks, and code in the text that begins with ftpfs."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        yield from re.findall(r"^\$ (ftpfs .*)$", block, re.MULTILINE)
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    yield from re.findall(r"`(ftpfs [^`]*)`", text)


def options(page: str) -> Iterator[str]:
    """Options that stand alone in the last column of a table."""
    for row in re.findall(r"^\|.*\|$", page, re.MULTILINE):
        yield from re.findall(r"`(-o [^`.]*|--[^`.]*)`", row.rsplit("|", 2)[1])


def check(line: str) -> None:
    """Raises click's error, or InvalidArgument, for a line that ftpfs would refuse at once."""
    words = shlex.split(line, comments=True)
    words = words[: words.index("|")] if "|" in words else words
    if len(words) < 2 or words[1].isupper():
        return
    command = cli.cli.get_command(click.Context(cli.cli), words[1])
    assert command is not None, f"no command: {line}"
    if len(words) == 2:  # the name of the command alone
        return
    folder = str(DOCS)  # in place of one of the reader
    command.make_context(words[1], [folder if w.startswith("~/") else w for w in words[2:]])
    for before, word in itertools.pairwise(words):
        if before == "-o" and words[1] != "cmd":
            parse_options(word)


@pytest.mark.parametrize("name", PAGES)
def test_commands_on_the_page_are_those_of_the_program(name: str) -> None:
    page = (DOCS / name).read_text()
    found = list(commands(page))
    assert len(found) > 5
    for line in found:
        try:
            check(line)
        except (click.ClickException, InvalidArgument) as error:
            pytest.fail(f"{line}: {error}")


def test_options_in_the_tables_are_those_of_the_program() -> None:
    found = list(options((DOCS / "coming-from.md").read_text()))
    assert len(found) >= 20
    known = {option.flag for option in OPTIONS.values()}
    known |= {"--jobs", "--exclude", "--newer-than", "--delete", "--resume", "--streams"}
    for text in found:
        if text.startswith("-o "):
            parse_options(text.removeprefix("-o "))
        else:
            assert set(re.findall(r"--[\w-]+", text)) <= known, text


@pytest.mark.parametrize(
    "line", ["ftpfs nonsense a", "ftpfs ls --nonsense a", "ftpfs mount a b -o x=1"]
)
def test_command_that_does_not_exist_is_found(line: str) -> None:
    with pytest.raises((AssertionError, click.ClickException, InvalidArgument)):
        check(line)
