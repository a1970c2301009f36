"""Writes and closes of shells and programs: refused folders, long computations, children.

A shell opens a file, makes a copy of the descriptor and closes the first one before anything is
written; each child that ends closes its copies. With the options that people use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import RemoteDir, StartServer
from tests.mount.conftest import Mounted, MountServer, ftpfs, wait_until_sent
from tests.support import servers
from tests.support.servers import Kind
from tests.support.waiting import largest_upload, until

pytestmark = pytest.mark.mount

PRECIOUS = "precious\n"
# Shells and programs that write PRECIOUS to $f, and look at what write() returns: a copy of the
# descriptor is closed before.
CLOSE_BEFORE = [
    "bash -c 'echo precious > $f'",
    "bash -c 'echo precious >> $f'",
    "bash -c '{ echo precious && sleep 0.3; } > $f'",
    "bash -c '{ sleep 0.3; echo precious; } > $f'",
    "bash -c 'exec > $f; echo precious'",
    "bash -c 'echo precious | cat > $f'",
    "dash -c 'echo precious > $f'",
    "dash -c 'echo precious >> $f'",
    "dash -c '{ echo precious; } > $f'",
    "echo precious | dd of=$f status=none",
    "touch $f",
]
# Those that write before they close; the last does not look at what close() returns.
WRITE_BEFORE = [
    "set -o pipefail; echo precious | tee $f",
    "cp <(echo precious) $f",
    f"""{sys.executable} -c 'import os; open(os.environ["f"], "w").write("precious\\n")'""",
]


@pytest.fixture(params=["vsftpd", "pyftpdlib"], scope="session")
def server_kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def refusing(
    server_kind: Kind,
    fuse_binding: str,
    start_server: StartServer,
    mount_server: MountServer,
) -> Mounted:
    """A mount whose server refuses files: root owns the folder, and the user has no rights."""
    if server_kind == "pyftpdlib":  # it serves as root
        server = start_server(server_kind, options=servers.Options(read_only=True))
        return mount_server(server, server.root, binding=fuse_binding)
    server = start_server(server_kind)
    (server.root / "ro").mkdir(mode=0o755)
    return mount_server(server, server.root / "ro", path="ro", binding=fuse_binding)


def run(program: str, mounted: Mounted, name: str = "f") -> int:
    return subprocess.run(
        ["bash", "-c", program],
        cwd=mounted.path,
        env={**os.environ, "f": name},
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=False,
    ).returncode


def command(name: str, mounted: Mounted) -> tuple[int, str]:
    """What `ftpfs NAME` returns and prints about a mount."""
    state = str(mounted.path.parent / "state")
    done = ftpfs(name, str(mounted.path), env={"XDG_STATE_HOME": state})
    return done.returncode, done.stdout + done.stderr


def test_programs_get_an_error_when_a_folder_takes_no_file(refusing: Mounted) -> None:
    for number, program in enumerate(CLOSE_BEFORE):
        assert run(program, refusing, f"f{number}"), program
        assert os.listdir(refusing.path) == [], program
    assert command("sync", refusing)[0] == 0
    assert list(refusing.disk_now.iterdir()) == []
    # No message names a spool file that no longer exists.
    assert "what was written is in" not in refusing.log_text()
    refusing.unmount()


def test_refused_content_is_kept_and_reported(refusing: Mounted) -> None:
    for number, program in enumerate(WRITE_BEFORE):
        refused = run(program, refusing, f"f{number}")
        assert bool(refused) == (program is not WRITE_BEFORE[-1])
        until_failed(refusing, f"f{number}")
        assert (refusing.path / f"f{number}").read_text() == PRECIOUS
    assert "failed" in command("status", refusing)[1]
    for name in ("sync", "umount"):
        code, said = command(name, refusing)
        assert (code, "/f0" in said) == (1, True), said
    lines = refusing.log_text().splitlines()
    kept = {line.rpartition(" is in ")[2] for line in lines if "what was written is in" in line}
    assert [Path(name).read_text() for name in kept] == [PRECIOUS] * len(WRITE_BEFORE)


def until_failed(mounted: Mounted, name: str = "f") -> None:
    until(lambda: os.getxattr(mounted.path / name, "user.ftpfs.state") == b"failed")


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_refused_append_is_kept(
    start_server: StartServer, mount_server: MountServer, fuse_binding: str, shell: str
) -> None:
    """The file exists and belongs to another user, so the shell gets no error."""
    server = start_server("vsftpd")
    theirs = server.root / "f"
    theirs.write_text("theirs\n")
    server.root.chmod(0o755)
    os.chown(server.root, 0, 0)
    mounted = mount_server(server, server.root, binding=fuse_binding)
    run(f"{shell} -c 'echo precious >> f'", mounted)
    until_failed(mounted)
    assert (mounted.path / "f").read_text() == "theirs\n" + PRECIOUS
    assert command("sync", mounted)[0] == 1
    assert command("umount", mounted)[0] == 1
    assert theirs.read_text() == "theirs\n"


# Old or new.

SLOW = {
    "bash": ["bash", "-c", "{ echo first; sleep 1.5; echo second; } > $f"],
    "dash": ["dash", "-c", "{ echo first; sleep 1.5; echo second; } > $f"],
    "command": ["bash", "-c", "bash -c 'sleep 1.5; echo first; echo second' > $f"],
    "children": [
        "bash",
        "-c",
        "exec > $f; /bin/echo first; for n in 1 2 3 4 5; do sleep 0.3; done; /bin/echo second",
    ],
    "python": [
        sys.executable,
        "-c",
        "import os, subprocess, time\n"
        "f = open(os.environ['f'], 'w'); f.write('first\\n'); f.flush()\n"
        "for _ in range(5):\n"
        "    if not os.fork(): os._exit(0)\n"
        "    subprocess.run(['true'], close_fds=False, pass_fds=[f.fileno()]); time.sleep(0.3)\n"
        "f.write('second\\n'); f.close()\n",
    ],
}


@pytest.mark.parametrize("old", [None, "old\n"], ids=["new", "replaced"])
def test_file_written_bit_by_bit_is_old_or_new_on_the_server(
    remote_dir: RemoteDir, mounted: Mounted, old: str | None
) -> None:
    if old is not None:
        for name in SLOW:
            remote_dir.write(name, old.encode())
    running = {}
    for name, program in SLOW.items():
        running[name] = subprocess.Popen(program, cwd=mounted.path, env={**os.environ, "f": name})
    seen: dict[str, set[str | None]] = {name: set() for name in SLOW}
    while any(each.poll() is None for each in running.values()):
        for name in SLOW:
            try:
                seen[name].add((mounted.disk_now / name).read_text())
            except FileNotFoundError:
                seen[name].add(None)
        time.sleep(0.02)
    for name in SLOW:
        assert running[name].returncode == 0, name
        assert (mounted.disk / name).read_text() == "first\nsecond\n", name
        assert seen[name] <= {old, "first\nsecond\n"}, name


def test_sync_and_fsync_send_files_that_are_open(remote_dir: RemoteDir, mounted: Mounted) -> None:
    with open(mounted.path / "f", "w") as file:
        file.write("so far")
        file.flush()
        assert command("sync", mounted)[0] == 0
        assert (mounted.disk_now / "f").read_text() == "so far"
        file.write(" and further")
        file.flush()
        os.fsync(file.fileno())
        assert (mounted.disk_now / "f").read_text() == "so far and further"
    wait_until_sent(mounted.path)


def test_file_held_open_without_a_write_delays_nothing(mounted: Mounted) -> None:
    (mounted.path / "f").write_text("one\n")
    with open(mounted.path / "f", "a"):
        with open(mounted.path / "f", "a") as other:
            other.write("two\n")
        assert (mounted.disk / "f").read_text() == "one\ntwo\n"


def test_long_file_is_sent_while_a_shell_writes_it(mounted: Mounted) -> None:
    (mounted.path / "first").write_text("")  # the folder takes files
    shell = "{ head -c 20000000 /dev/zero; sleep 2; } > f"
    running = subprocess.Popen(["bash", "-c", shell], cwd=mounted.path)
    until(lambda: largest_upload(mounted.disk_now) > 10_000_000)
    assert running.poll() is None
    assert not (mounted.disk_now / "f").exists()
    assert running.wait(30) == 0
    assert (mounted.disk / "f").stat().st_size == 20_000_000
