"""How copies of large trees grow: time and peak memory of `ftpfs get -r`, `mirror` and `put -r`.

    python -m scripts.scale_trees [FILES [IN_ONE_FOLDER]]      as root; 100,000 take some minutes

Uses vsftpd on loopback, and files of 100 bytes in memory. The memory is the peak of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.benchmark import servers
from scripts.benchmark.parameters import Link

REPO = Path(__file__).resolve().parents[1]
_FILES, _IN_ONE_FOLDER = 100_000, 200


def plant(folder: Path, files: int, in_one_folder: int) -> None:
    for number in range(files):
        place = folder / f"part-{number // in_one_folder:04}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file-{number:06}").write_bytes(b"x" * 100)


def measure(words: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Wall-clock and CPU seconds, and the peak in MiB, of one command."""
    began = time.monotonic()
    command = [sys.executable, "-m", "ftpfs", *words]
    process = subprocess.Popen(command, cwd=REPO, env={**os.environ, **environment})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ftpfs {words[0]} ended with {process.returncode}")
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:3]]
    files, in_one_folder = [*numbers, *(_FILES, _IN_ONE_FOLDER)[len(numbers) :]]
    memory = servers.memory_folder(files * 3 * 4096)
    with tempfile.TemporaryDirectory(prefix="ftpfs-scale-", dir=memory) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with servers.running("vsftpd", Link(), folder) as server:
            plant(server.root / "tree", files, in_one_folder)
            server.give(server.root / "tree")
            url = f"ftp://{server.user}@{server.host}:{server.port}/"
            environment = {"FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": name}
            here = str(folder / "here")
            print(f"{files:,} files, {in_one_folder:,} in one folder")
            print("| command | seconds | files/s | CPU seconds | peak MiB |")
            print("|---|---|---|---|---|")
            for words in (
                ["get", "-r", url + "tree", here],
                ["mirror", url + "tree", here],
                ["put", "-r", here, url + "sent"],
            ):
                wall, cpu, peak = measure(words, environment)
                title = " ".join(words[: 1 + (words[1] == "-r")])
                print(f"| `{title}` | {wall:.1f} | {files / wall:,.0f} | {cpu:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
