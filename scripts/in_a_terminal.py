"""Writes docs/in-a-terminal.md and its picture: commands typed into a real terminal (tmux).

Nothing is invented: a server behind a relay that carries 2 MB/s on each connection, a mount, keys,
and `tmux capture-pane`. The picture shows two of the captured screens.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from ftpfs.commands import embedded_server
from tests.support.relay import Relay

PAGE = Path(__file__).resolve().parents[1] / "docs" / "in-a-terminal.md"
PICTURE = PAGE.with_suffix(".svg")
SHOWN = ("`cp` returned", "Unmounting waits")  # the screens in the picture, by their titles
COLUMNS, ROWS = 110, 30
LETTER_WIDTH, LINE_HEIGHT, MARGIN = 7.2, 17, 16  # of the picture, in pixels
RATE = 2_000_000  # bytes a second, for each connection
FILES, SIZE = 12, 6_000_000
LAST_YEAR = 1_735_689_600  # seconds since the epoch: 2025-01-01
DEADLINE = 60.0  # seconds until an expected text must show


class Terminal:
    """A terminal of its own with a shell in it."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        (folder / "bashrc").write_text("PS1='$ '\n")
        home = {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**home, "PATH": path, "LANG": "C.UTF-8", "TERM": "xterm-256color"}
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        shell = f"cd {folder} && exec bash --noprofile --rcfile {folder}/bashrc -i"
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, shell, env=environment)

    def type(self, line: str) -> None:
        self._tmux("send-keys", line, "Enter")

    def interrupt(self) -> None:
        self._tmux("send-keys", "C-c")

    def clear(self) -> None:
        self._tmux("send-keys", "C-l")
        self.until(lambda seen: seen.strip() == "$")

    def seen(self) -> str:
        return self._tmux("capture-pane", "-p").rstrip() + "\n"

    def until(self, condition: Callable[[str], bool]) -> str:
        """The screen as soon as it fulfils the condition."""
        deadline = time.monotonic() + DEADLINE
        while not condition(seen := self.seen()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never seen; at last:\n{seen}")
            time.sleep(0.05)
        return seen

    def until_done(self) -> str:
        """The screen when the shell asks for the next command."""
        return self.until(lambda seen: seen.endswith("\n$\n"))

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-u", "-S", self._socket, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return done.stdout


Pages = list[tuple[str, str]]  # titles and screens


def play(terminal: Terminal, relay: Relay) -> Pages:
    """Type the commands; return pairs of a title and the screen."""
    return [
        *uploads(terminal, relay),
        *refusals(terminal, relay),
        *a_server_away(terminal, relay),
    ]


def uploads(terminal: Terminal, relay: Relay) -> Pages:
    """Copying to a mount returns at once; status, sync and umount follow the uploads."""
    pages = []
    terminal.type(f"ftpfs mount 127.0.0.1:{relay.port} nas && cp -r photos nas/")
    terminal.until_done()
    terminal.clear()

    terminal.type("ftpfs status --watch nas")
    seen = terminal.until(lambda seen: "MB/s;" in seen and "uploading" in seen)
    time.sleep(3)
    pages.append(
        (
            "`cp` returned at once; `ftpfs status --watch nas` shows how far its files are:",
            terminal.seen() or seen,
        )
    )
    terminal.interrupt()
    terminal.clear()

    terminal.type("ftpfs sync nas/photos && ftpfs status nas")
    terminal.until(lambda seen: "MB/s" in seen)
    pages.append(("Wait until the server has them:", terminal.seen()))
    terminal.until_done()
    pages.append(("A moment later the server has them:", terminal.seen()))
    terminal.clear()

    terminal.type("cp -r photos nas/again; ftpfs umount nas")
    terminal.until(lambda seen: "MB/s" in seen)
    time.sleep(2)
    pages.append(("Unmounting waits for the uploads:", terminal.seen()))
    terminal.interrupt()
    pages.append(("Ctrl-C leaves the uploads to the background:", terminal.until_done()))
    terminal.clear()
    terminal.type("ftpfs status nas")
    pages.append(("The daemon goes on without the mount:", terminal.until_done()))
    terminal.clear()
    relay.data_rate = None
    terminal.type(
        "while ftpfs status nas >log 2>&1; do sleep .2; done; cat log; ls served/again | wc -l"
    )
    pages.append(("The daemon ends when its uploads are done:", terminal.until_done()))
    terminal.clear()
    return pages


def refusals(terminal: Terminal, relay: Relay) -> Pages:
    """A server without room for a file."""
    pages = []
    refused = relay.refuse("STOR", "552 Quota exceeded.")
    terminal.type(f"ftpfs mount 127.0.0.1:{relay.port} nas && cp photos/p01.raw nas/big.raw")
    terminal.until_done()
    terminal.clear()
    terminal.type("ftpfs sync nas; echo exit code $?; ftpfs status nas")
    pages.append(("The server refuses an upload:", terminal.until_done()))
    terminal.clear()
    terminal.type("ftpfs umount nas")
    pages.append(
        ("`umount` names the refused file, and where its content is kept:", terminal.until_done())
    )
    terminal.clear()
    refused.remove()
    return pages


def a_server_away(terminal: Terminal, relay: Relay) -> Pages:
    """A kept folder is read, and changed, while the server cannot be reached."""
    pages = []
    mount = f"ftpfs mount -o cache_size=on 127.0.0.1:{relay.port} nas"
    relay.data_rate = RATE
    terminal.type(f"{mount} && ftpfs keep nas/trip")
    terminal.until(lambda seen: "MB/s" in seen)
    time.sleep(1)
    pages.append(("`ftpfs keep` fetches a folder, to have it here always:", terminal.seen()))
    terminal.until_done()
    terminal.clear()
    relay.data_rate = None
    terminal.type("ftpfs keep --list; ftpfs umount nas")
    pages.append(("What is kept is looked at again every 15 minutes:", terminal.until_done()))
    terminal.clear()

    relay.refuse_connections("rst")
    relay.cut_all("rst")
    terminal.type(mount)
    pages.append(("The server is away, and the mount works:", terminal.until_done()))
    terminal.clear()
    terminal.type("cmp nas/trip/p01.raw served/trip/p01.raw && ls nas/trip; cat nas/again/p01.raw")
    pages.append(("Kept files are here, others are not:", terminal.until_done()))
    terminal.clear()
    terminal.type("mkdir nas/best && mv nas/trip/p0[1-3]* nas/best && date >nas/best/chosen")
    terminal.until_done()
    terminal.type("ftpfs status nas")
    pages.append(("Changes wait for the server:", terminal.until_done()))
    terminal.clear()

    relay.refuse_connections(None)
    terminal.type("ftpfs sync nas && ls served/best && ftpfs umount nas")
    pages.append(
        ("The server is back, and gets the changes in their order:", terminal.until_done())
    )
    return pages


def main() -> int:
    folder = Path("/tmp/ftpfs-seen")  # the page shows this path
    folder.mkdir()
    for name in ("served/trip", "photos", "nas"):
        (folder / name).mkdir(parents=True)
    for number in range(1, FILES + 1):
        photo = folder / "photos" / f"p{number:02}.raw"
        photo.write_bytes(os.urandom(SIZE))
        os.utime(shutil.copy(photo, folder / "served" / "trip"), (LAST_YEAR, LAST_YEAR))
    with embedded_server.running(str(folder / "served"), "--write") as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        with Relay("127.0.0.1", port) as relay:
            relay.data_rate = RATE
            terminal = Terminal(folder)
            try:
                pages = play(terminal, relay)
            finally:
                terminal.close()
                subprocess.run(["umount", "-l", str(folder / "nas")], capture_output=True)
    PAGE.write_text(page(pages))
    PICTURE.write_text(picture(pages))
    shutil.rmtree(folder)
    return 0


def page(pages: Pages) -> str:
    text = (
        "# Seen in a terminal\n\n"
        "`scripts/in-a-terminal` makes this page: it types into a terminal of"
        f" {COLUMNS} columns (tmux) and captures\nwhat shows. The server is 127.0.0.1 behind a"
        f" relay that lets {RATE // 10**6} MB/s through on each connection.\n"
    )
    for title, seen in pages:
        text += f"\n{title}\n\n```console\n{seen}```\n"
    return text


def picture(pages: Pages) -> str:
    """Some of the screens as SVG, dark as a terminal, with their titles as comments."""
    lines: list[tuple[str, str]] = []  # colour and text
    for title, seen in pages:
        if title.startswith(SHOWN):
            lines += [("#8b949e", f"# {title.replace('`', '').rstrip(' .:')}")]
            lines += [("#e6edf3", line) for line in seen.splitlines()]
            lines += [("", "")]
    del lines[-1]
    width = round(max(len(text) for _, text in lines) * LETTER_WIDTH + 2 * MARGIN)
    height = len(lines) * LINE_HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="ui-monospace, monospace" font-size="12">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
    ]
    for number, (colour, text) in enumerate(lines):
        if text:
            # A given length keeps columns aligned in every font.
            parts.append(
                f'<text x="{MARGIN}" y="{MARGIN + (number + 0.75) * LINE_HEIGHT}" fill="{colour}"'
                f' xml:space="preserve" textLength="{len(text) * LETTER_WIDTH:.1f}"'
                f' lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
