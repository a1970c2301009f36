"""A password is nowhere readable: every place is searched while a mount runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import MountServer, _daemons, ftpfs
from tests.support import odd_server, servers
from tests.support.odd_server import Script
from tests.support.servers import FtpServer
from tests.support.waiting import until

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def server(open_folder: Path) -> Iterator[FtpServer]:
    folder = open_folder / "secrets"
    with servers.start("pyftpdlib", folder / "root", folder / "work") as running:
        yield running


def holds(password: str, *places: bytes | str) -> list[int]:
    """The places in which the password can be read."""
    texts = [p if isinstance(p, bytes) else p.encode("utf-8", "surrogateescape") for p in places]
    return [number for number, text in enumerate(texts) if password.encode() in text]


def shown_by_proc(pid: int) -> bytes:
    """Everything in /proc about a process that root can read as text."""
    shown = b""
    for name in ("cmdline", "environ", "comm", "status", "mountinfo", "maps"):
        shown += (Path("/proc") / str(pid) / name).read_bytes()
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        shown += (task / "cmdline").read_bytes() + (task / "environ").read_bytes()
    return shown


def _said(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    return done.stdout, done.stderr


def test_live_mount_shows_the_password_nowhere(
    server: FtpServer, mount_server: MountServer, fuse_binding: str, tmp_path: Path
) -> None:
    mounted = mount_server(server, server.root, binding=fuse_binding)  # the log level is debug
    (mounted.path / "file").write_text("content")
    (mounted.path / "file").read_text()
    with pytest.raises(FileNotFoundError):
        (mounted.path / "missing").read_text()
    pids = _daemons(str(mounted.path))
    assert pids
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    places: list[bytes | str] = [
        *map(shown_by_proc, pids),
        mounted.log_text(),
        *_said(ftpfs("status", str(mounted.path), env=state)),
        *_said(ftpfs("status", "--json", str(mounted.path), env=state)),
        *_said(ftpfs("umount", str(tmp_path))),
        *(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()),
    ]
    assert not holds(server.password, *places)
    # Check the search itself on a process that does not hide the password.
    with subprocess.Popen(["sleep", "9"], env={"FTPFS_PASSWORD": server.password}) as plain:
        try:
            # The kernel shows the environment a moment after exec has succeeded.
            until(lambda: holds(server.password, shown_by_proc(plain.pid)))
        finally:
            plain.kill()


def test_password_in_the_address_is_blanked_while_mounted(
    server: FtpServer, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    source = f"ftp://{server.user}:{server.password}@{server.host}:{server.port}/"
    log = tmp_path / "log"
    done = ftpfs("mount", source, str(tmp_path / "here"), "-o", f"log_file={log},log_level=debug")
    assert done.returncode == 0, done.stderr
    try:
        (pid,) = _daemons(str(tmp_path / "here"))
        assert not holds(
            server.password,
            shown_by_proc(pid),
            done.stderr,
            log.read_text(),
            Path("/proc/self/mounts").read_bytes(),
        )
    finally:
        assert ftpfs("umount", str(tmp_path / "here")).returncode == 0


@pytest.mark.parametrize(
    "reply",
    [
        "530 no such login: {user} with {password}",
        "530-We got\n {password}\n530 and it is wrong",
        "999 {password}",
        "331 {password} again",
        "421 {password}",
    ],
)
@pytest.mark.parametrize("password", ["Odd-secret.9", "gëheim-9"])
def test_failed_login_does_not_show_the_password_even_if_the_server_does(
    reply: str, password: str, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    reply = reply.format(user="odd", password=password)
    log = tmp_path / "log"
    with odd_server.start(tmp_path, Script(replies={"PASS": reply})) as odd:
        source = f"odd@127.0.0.1:{odd.port}"
        environment = {"FTPFS_PASSWORD": password}
        words = f"log_level=debug,log_file={log},reply_timeout=3"
        done = ftpfs("mount", source, str(tmp_path / "here"), "-o", words, env=environment)
        listed = ftpfs("ls", "--log-level", "debug", f"ftp://{source}/", env=environment)
    assert done.returncode == 1
    assert listed.returncode == 1
    mangled = password.encode().decode("latin-1")
    escaped = password.encode("unicode_escape").decode()
    for shape in (password, mangled, escaped, mangled.encode("unicode_escape").decode()):
        assert not holds(shape, done.stderr, log.read_text(), listed.stderr, listed.stdout)
    assert "Traceback" not in done.stderr


@pytest.fixture
def as_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """`as_nobody(script)`: what the shell script prints, run as the test servers' user.

    In a mount namespace of its own, with a FUSE device that all may open; `$here` is a folder to
    mount on, `$ftpfs` the program.
    """
    from tests.mount.test_mounting import _system_python

    folder = Path(tempfile.mkdtemp(prefix="ftpfs-user-"))
    (folder / "here").mkdir()
    for path in (folder, folder / "here"):
        shutil.chown(path, servers.USER)
    environment = {
        "PATH": os.environ["PATH"],
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    user = f"setpriv --reuid={servers.USER} --regid=nogroup --clear-groups"
    program = f"{sys.executable} -m ftpfs"
    # Through a shell, as below: setpriv itself still has the right to pass root's closed folders.
    check = [*user.split(), "/bin/sh", "-c", f"{program} --version"]
    if subprocess.run(check, check=False, capture_output=True).returncode:
        program = _system_python(environment)
    environment |= {"here": str(folder / "here"), "ftpfs": program}

    def run(script: str) -> str:
        outer = f"""
            mknod {folder}/fuse c 10 229; chmod 666 {folder}/fuse
            mount --bind {folder}/fuse /dev/fuse
            exec {user} /bin/sh -ec '{script}'
        """
        done = subprocess.run(
            ["unshare", "-m", "/bin/sh", "-ec", outer],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    shutil.rmtree(folder, ignore_errors=True)


def test_another_process_of_the_user_cannot_read_the_daemon_nor_make_it_dump_core(
    server: FtpServer, as_nobody: Callable[[str], str]
) -> None:
    said = as_nobody(f"""
        source={server.user}@127.0.0.1:{server.port}
        FTPFS_PASSWORD={server.password} $ftpfs mount $source $here
        pid=$(pgrep -u $(id -u) -f "mount $source")
        for file in environ mem maps; do
            cat /proc/$pid/$file >/dev/null 2>&1 || echo "closed: $file"
        done
        grep -c "Max core file size *0 *0 " /proc/$pid/limits
        $ftpfs umount $here
    """)
    assert said.split("\n")[:4] == ["closed: environ", "closed: mem", "closed: maps", "1"]


def test_programs_started_from_the_daemon_get_no_password(
    server: FtpServer, tmp_path: Path
) -> None:
    """fusermount and umount must not get it: they are other people's code."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "umount").write_text(f'#!/bin/sh\nenv > {tmp_path}/seen\nexec /bin/umount "$@"\n')
    (tools / "umount").chmod(0o755)
    (tmp_path / "here").mkdir()
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "FTPFS_PASSWORD": server.password,
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    source = f"{server.user}@127.0.0.1:{server.port}"
    done = ftpfs("mount", source, str(tmp_path / "here"), env=environment)
    assert done.returncode == 0, done.stderr
    done = ftpfs("umount", str(tmp_path / "here"), env=environment)
    assert done.returncode == 0, done.stderr
    assert not holds(server.password, (tmp_path / "seen").read_bytes())
