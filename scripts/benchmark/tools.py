"""The tools: programs that copy files and trees without a mount, and how each is told to.

Owns: the command lines. `commands` has the cases. Each tool has its defaults, except for the number
of transfers at a time: 16, as many as ftpfs has connections.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.benchmark.parameters import BadParameter
from scripts.benchmark.peers import Peer, first_line, rclone_environment, rclone_program
from scripts.benchmark.servers import Endpoint
from scripts.benchmark.trial import Trial

_TRANSFERS = 16


class Tool(Peer):
    """A program that copies. `there` is a path on the server, below its root."""

    mounts = False

    def get_tree(self, trial: Trial, there: str, here: Path) -> None:
        raise NotImplementedError

    def put_tree(self, trial: Trial, here: Path, there: str) -> None:
        raise NotImplementedError

    def mirror(self, trial: Trial, there: str, here: Path) -> None:
        """Make `here` a copy of the folder `there`, although it is one."""
        raise NotImplementedError

    def get_file(self, trial: Trial, there: str, here: Path) -> None:
        raise NotImplementedError

    def put_file(self, trial: Trial, here: Path, there: str) -> None:
        raise NotImplementedError


class FtpfsCommands(Tool):
    name = "ftpfs-commands"

    def get_tree(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, "get", "-r", _url(trial, there), here)

    def put_tree(self, trial: Trial, here: Path, there: str) -> None:
        self._run(trial, "put", "-r", here, _url(trial, there))

    def mirror(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, "mirror", _url(trial, there), here)

    def get_file(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, "get", _url(trial, there), here)

    def put_file(self, trial: Trial, here: Path, there: str) -> None:
        self._run(trial, "put", here, _url(trial, there))

    def version(self) -> str:
        return first_line("git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty")

    def _run(self, trial: Trial, *words: str | Path) -> None:
        environment = {
            "FTPFS_PASSWORD": trial.bench.server.password,
            "XDG_STATE_HOME": str(trial.scratch),
        }
        _run(trial, [sys.executable, "-m", "ftpfs", *words], environment)


class Lftp(Tool):
    name = "lftp"

    def get_tree(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, ["mirror", f"-P{_TRANSFERS}", f"/{there}", here])

    def put_tree(self, trial: Trial, here: Path, there: str) -> None:
        self._run(trial, ["mirror", "-R", f"-P{_TRANSFERS}", here, f"/{there}"])

    mirror = get_tree

    def get_file(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, ["pget", "-n4", f"/{there}", "-o", here])

    def put_file(self, trial: Trial, here: Path, there: str) -> None:
        self._run(trial, ["put", here, "-o", f"/{there}"])

    def version(self) -> str:
        return first_line("lftp", "--version").partition(" | ")[2].partition(" |")[0]

    def _run(self, trial: Trial, words: Sequence[str | Path]) -> None:
        server = trial.bench.server
        command = shlex.join(map(str, words))
        login = ["--norc", "--user", server.user, "--env-password", "-p", str(server.port)]
        script = f"set cmd:fail-exit yes; {command}; exit"
        environment = {"LFTP_PASSWORD": server.password, "HOME": str(trial.scratch)}
        _run(trial, ["lftp", *login, "-e", script, server.host], environment)


class RcloneCommands(Tool):
    name = "rclone"

    def __init__(self) -> None:
        self._program = rclone_program()

    def get_tree(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, "copy", f":ftp:{there}", here)

    def put_tree(self, trial: Trial, here: Path, there: str) -> None:
        self._run(trial, "copy", here, f":ftp:{there}")

    def mirror(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, "sync", f":ftp:{there}", here)

    def get_file(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, "copyto", f":ftp:{there}", here)

    def put_file(self, trial: Trial, here: Path, there: str) -> None:
        self._run(trial, "copyto", here, f":ftp:{there}")

    def version(self) -> str:
        return first_line(self._program, "version")

    def _run(self, trial: Trial, *words: str | Path) -> None:
        environment = rclone_environment(self._program, trial.bench.server)
        options = ["--transfers", str(_TRANSFERS), "--checkers", str(_TRANSFERS)]
        _run(trial, [self._program, *words, *options], environment)


class CurlCommands(Tool):
    """curl knows no trees: it is told each file. It compares nothing, so it has no mirror."""

    name = "curl"

    def get_tree(self, trial: Trial, there: str, here: Path) -> None:
        here.mkdir()
        names = sorted(os.listdir(trial.bench.server.root / there))
        self._run(
            trial,
            [[f'url = "{_plain(trial, there)}/{n}"', f'output = "{here / n}"'] for n in names],
        )

    def put_tree(self, trial: Trial, here: Path, there: str) -> None:
        names = sorted(os.listdir(here))
        first, *rest = (
            [f'upload-file = "{here / name}"', f'url = "{_plain(trial, there)}/{name}"']
            for name in names
        )
        # The folder first: otherwise each connection would try to make it.
        self._run(trial, [[*first, f'quote = "MKD /{there}"']])
        self._run(trial, rest)

    def get_file(self, trial: Trial, there: str, here: Path) -> None:
        self._run(trial, [[f'url = "{_plain(trial, there)}"', f'output = "{here}"']])

    def put_file(self, trial: Trial, here: Path, there: str) -> None:
        self._run(trial, [[f'upload-file = "{here}"', f'url = "{_plain(trial, there)}"']])

    def version(self) -> str:
        return first_line("curl", "--version").partition(" (")[0]

    def _run(self, trial: Trial, blocks: list[list[str]]) -> None:
        server = trial.bench.server
        common = [f'user = "{server.user}:{server.password}"', 'ftp-method = "nocwd"']
        config = "\nnext\n".join("\n".join([*common, *block]) for block in blocks)
        options = ["--parallel", "--parallel-max", str(_TRANSFERS)] if len(blocks) > 1 else []
        command = ["curl", "-q", "--silent", "--show-error", "--fail-early", *options, "-K", "-"]
        trial.run(command, text=config)


_KINDS: Mapping[str, type[Tool]] = {
    each.name: each for each in (FtpfsCommands, Lftp, RcloneCommands, CurlCommands)
}


def names() -> list[str]:
    return list(_KINDS)


def find(name: str) -> Tool:
    """The tool of that name. Raises BadParameter if it does not exist, or not on this machine."""
    if name not in _KINDS:
        raise BadParameter(f"no such tool: {name} (there are {', '.join(_KINDS)})")
    if name in ("lftp", "curl") and not shutil.which(name):
        raise BadParameter(f"{name} is not on PATH")
    return _KINDS[name]()


def _run(trial: Trial, argv: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    trial.run(argv, env={**os.environ, **environment})


def _address(server: Endpoint) -> str:
    return f"{server.host}:{server.port}"


def _url(trial: Trial, there: str) -> str:
    server = trial.bench.server
    return f"ftp://{server.user}@{_address(server)}/{there}"


def _plain(trial: Trial, there: str) -> str:
    return f"ftp://{_address(trial.bench.server)}/{there}"
