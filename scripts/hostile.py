"""What hostile servers cost: peak memory, time to the error, size of the log.

    python -m scripts.hostile            prints the table of docs/servers.md; takes some minutes

Each server of tests/support/hostile_server.py is mounted with default options, and its trap is
listed three times; the files in it, if there are any, are read. If the harm is in the reply to
FEAT, `ftpfs ls` meets it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import hostile_server
from tests.support.hostile_server import LISTINGS, REPLIES, UNASKED, HostileServer

NUMBERS = {
    "counted-listing": 5_000_000,
    "cut-listing": 300_000,
    "dripped-listing": 0.1,
    "dripped-reply": 0.1,
    "fat-features": 900,
    "junk-lines": 1_000_000,
    "small-files": 30_000,
}
LOOKS = 3


def main() -> None:
    print(f"| server | result | peak memory, MB | s for {LOOKS} | log, KB |")
    print("|---|---|---|---|---|")
    for mode in (*LISTINGS, *UNASKED):
        with hostile_server.start(mode, NUMBERS.get(mode, 0)) as server:
            print(f"| {mode} | {_mounted(server)} |", flush=True)
    with hostile_server.start("endless-file") as server:
        print(f"| endless-file | {_mounted(server, 'spool_size=100M')} |", flush=True)
    for mode in REPLIES:
        with hostile_server.start(mode, NUMBERS.get(mode, 0)) as server:
            print(f"| {mode} | {_asked(server)} |", flush=True)


def _mounted(server: HostileServer, options: str = "") -> str:
    with tempfile.TemporaryDirectory() as folder:
        here, log = Path(folder, "mnt"), Path(folder, "log")
        here.mkdir()
        environment = _environment(server, folder)
        ftpfs = [sys.executable, "-m", "ftpfs"]
        url = f"ftp://{server.user}@{server.host}:{server.port}/"
        mount = [*ftpfs, "mount", url, str(here), "-o", f"log_file={log},{options}".rstrip(",")]
        subprocess.run(mount, env=environment, check=True)
        status = [*ftpfs, "status", "--json", str(here)]
        told = subprocess.run(status, env=environment, check=True, capture_output=True).stdout
        began = time.monotonic()
        outcome = {_look(here / "trap") for _ in range(LOOKS)}
        took = time.monotonic() - began
        peak = _peak(json.loads(told)[0]["pid"])
        subprocess.run([*ftpfs, "umount", str(here)], env=environment, check=True)
        size = log.stat().st_size / 1e3
    return f"{', '.join(sorted(outcome))} | {peak:.0f} | {took:.0f} | {size:.1f}"


def _look(folder: Path) -> str:
    try:
        names = os.listdir(folder)
        for name in names:
            (folder / name).read_bytes()
        return f"{len(names)} files read"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


def _peak(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def _asked(server: HostileServer) -> str:
    with tempfile.TemporaryDirectory() as folder:
        url = f"ftp://{server.user}@{server.host}:{server.port}/"
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "ftpfs", "ls", url],
            env=_environment(server, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, state, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(state)
        took = time.monotonic() - began
    outcome = "listed" if process.returncode == 0 else "an error"
    return f"{outcome} | {usage.ru_maxrss / 1e3:.0f} | {took:.0f} (once) | -"


def _environment(server: HostileServer, folder: str) -> dict[str, str]:
    return {**os.environ, "FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": folder}


if __name__ == "__main__":
    main()
