"""systemd: readiness, journal lines, and unit files.

Owns the sd_notify datagram, the priority at the beginning of a journal line, the text of units, and
the places of units and of mount(8)'s helpers. Runs nothing and mounts nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ftpfs.errors import Exists, InvalidArgument, NotFound, PermissionDenied
from ftpfs.settings.credentials import CREDENTIAL

# The folder of mount(8)'s helpers, and the helpers for `-t ftpfs` and `-t fuse.ftpfs`.
SBIN = Path("/sbin")
HELPERS = ("mount.ftpfs", "mount.fuse.ftpfs")


# For a running mount.


def notify(state: str) -> None:
    """Send `state` (sd_notify(3): READY=1, STATUS=...) to systemd, if it started us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),  # systemd may not listen; the mount does not depend on it
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
    ):
        datagram.connect("\0" + address[1:] if address.startswith("@") else address)
        datagram.send(state.encode("utf-8", "replace"))


def stderr_is_journal() -> bool:
    """Whether stderr goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    with contextlib.suppress(OSError):
        stat = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
    return False


class JournalFormatter(logging.Formatter):
    """A line with its priority (sd-daemon(3)), without time and level, which the journal adds."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        priority = next((p for level, p in self._PRIORITIES if record.levelno >= level), 7)
        # Each line of a traceback is an entry of its own.
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


# Units.

# How long a service may upload when systemd stops it: no user waits for it, as after Ctrl-C. And
# the time for all else that a mount does before it ends.
STOP_SECONDS, LEAVING_SECONDS = 540.0, 60.0


@dataclass(frozen=True)
class Service:
    """A mount as a systemd service."""

    source: str  # the server as on the command line, without a password
    mountpoint: str  # absolute
    options: str = ""  # as for -o
    config: Path | None = None  # file of named servers, absolute; None: the default one
    password_file: Path | None = None
    user: bool = False  # for systemd --user
    grace: float | None = None  # the grace time in seconds, if `options` has one

    @property
    def name(self) -> str:
        return f"ftpfs-{escaped(self.mountpoint)}.service"


def service_unit(service: Service) -> str:
    """The unit of a mount that runs from start to stop, and restarts after a failure."""
    command = [*program(), "mount", "--foreground"]
    if service.config:
        command += ["--config", str(service.config)]
    grace, options = service.grace, service.options
    if grace is None:
        grace = STOP_SECONDS
        options = ",".join(filter(None, [f"grace={grace:g}", options]))
    if options:
        command += ["-o", options]
    arguments = " ".join(map(quoted, [*command, "--", service.source, service.mountpoint]))
    credential = ""
    if service.password_file:
        credential = f"LoadCredential={CREDENTIAL}:{specified(str(service.password_file))}\n"
    after = "" if service.user else "Wants=network-online.target\nAfter=network-online.target\n"
    return (
        "# Written by `ftpfs install-service`.\n"
        "[Unit]\n"
        f"Description={specified(service.source)} on {specified(service.mountpoint)}\n"
        f"{after}"
        "# A server that is away when the machine starts is tried until it is back.\n"
        "StartLimitIntervalSec=0\n\n"
        "[Service]\n"
        "Type=notify\n"
        f"ExecStart={arguments}\n"
        f"{credential}"
        "Restart=on-failure\n"
        "RestartSec=10\n"
        "# One signal to the daemon, which unmounts, and uploads what is left for as long as its\n"
        "# option `grace` says. Killed after that, it loses nothing: the next mount goes on.\n"
        "KillMode=mixed\n"
        f"TimeoutStopSec={math.ceil(grace + LEAVING_SECONDS)}\n"
        "# No Private* or Protect* settings: they would keep the mount from everybody else.\n\n"
        "[Install]\n"
        f"WantedBy={'default.target' if service.user else 'multi-user.target'}\n"
    )


def automount_units(service: Service) -> dict[str, str]:
    """The units (text by name) of a mount that systemd makes when a program looks into it.

    They use mount(8), and so need its helper (`ftpfs install-helper`).
    """
    where = specified(service.mountpoint)
    name = escaped(service.mountpoint)
    named = f"config={service.config}" if service.config else ""
    options = ",".join(filter(None, ["_netdev", named, service.options]))
    credential = ""
    if service.password_file:
        credential = f"LoadCredential={CREDENTIAL}:{specified(str(service.password_file))}\n"
    mount = (
        "# Written by `ftpfs install-service --automount`.\n"
        "[Unit]\n"
        f"Description={specified(service.source)}\n"
        "Wants=network-online.target\n"
        "After=network-online.target\n\n"
        "[Mount]\n"
        f"What={specified(service.source)}\n"
        f"Where={where}\n"
        "Type=ftpfs\n"
        f"Options={specified(options)}\n"
        f"{credential}"
    )
    automount = (
        "# Written by `ftpfs install-service --automount`.\n"
        "[Unit]\n"
        f"Description={specified(service.source)}, mounted when used\n\n"
        "[Automount]\n"
        f"Where={where}\n"
        "TimeoutIdleSec=10min\n\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )
    return {f"{name}.mount": mount, f"{name}.automount": automount}


def unit_folder(*, user: bool) -> Path:
    """The folder of the administrator's, or this user's, units (systemd.unit(5))."""
    if not user:
        return Path("/etc/systemd/system")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config, "systemd", "user")


def write_units(folder: Path, units: dict[str, str]) -> list[Path]:
    """Write `units` (text by name) into `folder`. Returns the files.

    The message of PermissionDenied tells what to do.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in units.items():
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    except PermissionError as error:
        raise PermissionDenied(f"{folder}: permission denied (sudo, or --user)") from error
    return written


def escaped(path: str) -> str:
    """`path` as a unit's name: `systemd-escape --path`, systemd.unit(5)."""
    trimmed = "/".join(part for part in path.split("/") if part)
    if not trimmed:
        return "-"
    letters = []
    for number, byte in enumerate(trimmed.encode("utf-8", "surrogateescape")):
        letter = chr(byte)
        if letter == "/":
            letters.append("-")
        elif letter.isascii() and (
            letter.isalnum() or letter in ":_" or (letter == "." and number)
        ):
            letters.append(letter)
        else:
            letters.append(f"\\x{byte:02x}")
    return "".join(letters)


def specified(text: str) -> str:
    """Escape `text` for a setting in which systemd expands specifiers (%n, %h).

    Raises InvalidArgument for text that a unit file cannot hold.
    """
    if "\n" in text or "\r" in text:
        raise InvalidArgument("a line break cannot stand in a unit file")
    if text.endswith("\\"):
        raise InvalidArgument("a backslash cannot stand at the end of a line of a unit file")
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """`word` as one argument of ExecStart= (systemd.service(5))."""
    word = specified(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{word}"' if not word or any(c in word for c in " \t'\\\";") else word


def program() -> list[str]:
    """The command that starts this ftpfs from anywhere, without PATH."""
    script = Path(sysconfig.get_path("scripts"), "ftpfs")
    return [str(script)] if script.exists() else [sys.executable, "-m", "ftpfs"]


# mount(8).


def install_helpers(folder: Path = SBIN) -> list[Path]:
    """Link mount(8)'s helpers in `folder` to this installation. Returns the links.

    Raises Exists if something else has the name, PermissionDenied without the right to write there.
    """
    target = Path(sysconfig.get_path("scripts"), HELPERS[0])
    if not target.exists():
        raise NotFound(f"{target} is missing: this ftpfs was not installed by pip")
    links = []
    for name in HELPERS:
        link = folder / name
        try:
            if link.is_symlink():
                link.unlink()
            link.symlink_to(target)
        except FileExistsError as error:
            raise Exists(f"{link} is there already, and is no link") from error
        except PermissionError as error:
            raise PermissionDenied(f"{folder}: permission denied (run it with sudo)") from error
        links.append(link)
    return links
