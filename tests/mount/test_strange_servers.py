"""Mounts with default options on servers and networks that do not answer."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpfs.core.writing.spool import Spool
from ftpfs.daemon import mount
from ftpfs.local import private
from ftpfs.settings.config import Server
from tests.mount.conftest import MountServer, ftpfs, unmount, wait_until_sent
from tests.support import scripted_server
from tests.support.scripted_server import FIN, RST, SILENCE, STUCK, TWICE, Manners, ScriptedServer
from tests.support.waiting import until

pytestmark = pytest.mark.mount

# Every command that a day's work may do without.
OPTIONAL = (
    *("FEAT", "SYST", "OPTS", "EPSV", "PWD", "CWD", "MLSD", "MLST", "LIST -a", "SIZE", "MDTM"),
    *("MFMT", "SITE", "AVBL", "REST", "NOOP", "RNFR", "APPE", "DELE"),
)

MountScripted = Callable[..., Path]


@pytest.fixture
def mount_scripted(mount_server: MountServer, fuse_binding: str) -> MountScripted:
    """`mount_scripted(server, options="")`: where it is mounted."""

    def mount(server: ScriptedServer, options: str = "") -> Path:
        return mount_server(server, server.root, binding=fuse_binding, options=options).path

    return mount


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "inner").write_bytes(b"inner")
    (folder / "hello").write_bytes(b"hello, world\n")
    return folder


def shell(line: str, here: Path, timeout: float = 60) -> str:
    done = subprocess.run(
        ["bash", "-c", line], cwd=here, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("fate", [scripted_server.DEAD_PORT, scripted_server.CLOSED_PORT])
def test_mount_works_if_every_second_passive_port_is_dead(
    root: Path, mount_scripted: MountScripted, fate: str
) -> None:
    """As behind a firewall that drops or refuses them."""
    with scripted_server.start(root, Manners(ports=itertools.cycle([fate, ""]))) as server:
        here = mount_scripted(server)
        assert shell("ls; cat hello d/inner", here) == "d\nhello\nhello, world\ninner"
        shell("echo new > new; cp new d/copy", here)
        wait_until_sent(here)
    assert (root / "new").read_text() == (root / "d" / "copy").read_text() == "new\n"


def test_mount_goes_on_after_server_logged_all_sessions_out(
    root: Path, mount_scripted: MountScripted
) -> None:
    """Without closing them: each command gets a 530."""
    with scripted_server.start(root) as server:
        here = mount_scripted(server)
        assert shell("ls; cat hello", here) == "d\nhello\nhello, world\n"
        server.log_out()
        assert shell("ls d; cat d/inner", here) == "inner\ninner"
        server.log_out()
        shell("echo new > new; mkdir made; mv hello made", here)
        wait_until_sent(here)
        server.log_out()
        shell("! cat d/missing 2> /dev/null; rm d/inner", here)
    assert (root / "new").read_text() == "new\n"
    assert os.listdir(root / "made") == ["hello"]
    assert os.listdir(root / "d") == []


@pytest.mark.parametrize(
    "limits",
    [
        Manners(most_clients=1, rate=4e6),
        Manners(most_clients=1, rate=4e6, refusal="421 one at a time"),
        Manners(one_after_another=True, rate=4e6),
    ],
    ids=["never greeted", "refused", "packets dropped"],
)
def test_folder_is_listed_while_a_file_is_read_where_only_one_client_is_answered(
    limits: Manners, root: Path, mount_scripted: MountScripted
) -> None:
    big = os.urandom(16_000_000)
    (root / "big").write_bytes(big)
    with scripted_server.start(root, limits) as server:
        here = mount_scripted(server)
        reader = subprocess.Popen(["md5sum", "big"], cwd=here, stdout=subprocess.PIPE)
        time.sleep(0.5)
        began = time.monotonic()
        assert shell("ls d; cat hello; echo new > new", here) == "inner\nhello, world\n"
        assert time.monotonic() - began < 12
        assert reader.wait(60) == 0
        assert (here / "big").read_bytes() == big
        assert (
            shell("for n in 1 2 3 4 5 6; do cat hello & done; wait", here) == 6 * "hello, world\n"
        )
        wait_until_sent(here)
        assert (root / "new").read_bytes() == b"new\n"


@pytest.mark.parametrize(
    ("manners", "bearable"),
    [
        (Manners(one_command_a_packet=True), 10),
        (Manners(one_command_a_packet=True, features=scripted_server.OLD), 10),
        (Manners(answers=dict.fromkeys(("FEAT", "SYST", "EPSV", "OPTS"), SILENCE)), 20),
        (Manners(answers={"MLSD": FIN, "MLST": RST, "EPSV": RST}), 5),
        (Manners(answers={"OPTS": TWICE, "CWD": TWICE, "SITE CHMOD": TWICE}), 10),
        (Manners(answers={"MDTM": STUCK}, features=scripted_server.OLD), 30),
        (Manners(answers=dict.fromkeys(OPTIONAL, FIN)), 10),
    ],
    ids=[
        *("one a packet", "one a packet, LIST", "silent", "hangs up", "answers twice", "mute"),
        "hangs up on everything",
    ],
)
def test_device_that_does_not_answer_all_commands_carries_everyday_work(
    manners: Manners, bearable: float, root: Path, mount_scripted: MountScripted
) -> None:
    """With default options; `bearable`: seconds from the first login to the first `ls`."""
    with scripted_server.start(root, manners) as server:
        here = mount_scripted(server)
        assert shell("ls", here).split() == ["d", "hello"]
        took = server.times[-1] - server.times[0]
        assert took < bearable, f"the first ls took {took:.1f} s"
        assert shell("cat hello; echo new > d/new; cat d/new; ls d", here) == (
            "hello, world\nnew\ninner\nnew\n"
        )
        assert shell("cp hello copy && cat copy >> d/new && cat d/new", here) == (
            "new\nhello, world\n"
        )
        wait_until_sent(here, timeout=60)
        assert (root / "d" / "new").read_bytes() == b"new\nhello, world\n"
        assert (root / "copy").read_bytes() == b"hello, world\n"


@pytest.mark.parametrize("features", [scripted_server.MODERN, ()], ids=["MLSD", "LIST"])
def test_server_that_knows_names_but_no_paths_carries_everyday_work(
    features: tuple[str, ...], root: Path, mount_scripted: MountScripted
) -> None:
    (root / "e").mkdir()
    with scripted_server.start(root, Manners(names_only=True, features=features)) as server:
        here = mount_scripted(server)
        assert shell("ls; cat hello d/inner", here) == "d\ne\nhello\nhello, world\ninner"
        shell("echo first > d/new; echo second >> d/new; mkdir -p d/sub/deep", here)
        shell("cp hello d/sub/deep/copy; mv d/new d/newer; mv d/newer e/other", here)
        shell("mv d/sub e/; mv d/inner e/other2; mv e/other2 e/other3; rm hello", here)
        assert shell("cat e/other; find . | sort", here).split("\n") == [
            *("first", "second", ".", "./d", "./e", "./e/other", "./e/other3", "./e/sub"),
            *("./e/sub/deep", "./e/sub/deep/copy", ""),
        ]
        wait_until_sent(here)
        with pytest.raises(OSError, match="cross-device"):
            os.rename(here / "e" / "other3", here / "d" / "inner")
        assert (root / "e" / "other").read_bytes() == b"first\nsecond\n"
        assert (root / "e" / "sub" / "deep" / "copy").read_bytes() == b"hello, world\n"
        assert sorted(os.listdir(root)) == ["d", "e"]
        assert os.listdir(root / "d") == []


def test_long_folder_is_listed_at_once_where_the_server_takes_long_to_tell_a_time(
    tmp_path: Path, mount_scripted: MountScripted
) -> None:
    """10 ms for each MDTM: `ls -l` shows the listing's minutes, and the seconds later."""
    count, when = 1000, int(time.time()) // 60 * 60 - 7200
    folder = tmp_path / "root"
    (folder / "d").mkdir(parents=True)
    for number in range(count):
        path = folder / "d" / f"file{number}"
        path.touch()
        os.utime(path, (when + 7, when + 7))
    manners = Manners(features=scripted_server.OLD, slow={"MDTM": 0.01})
    with scripted_server.start(folder, manners) as server:
        here = mount_scripted(server)
        began = time.monotonic()
        assert shell("ls -l d | wc -l", here).strip() == str(count + 1)
        assert time.monotonic() - began < 5
        began = time.monotonic()
        assert shell("cat d/file7; echo new > d/new; cat d/new", here) == "new\n"
        assert time.monotonic() - began < 5, "the times that are still asked for are waited for"

        def shown() -> set[int]:
            return {int((here / "d" / f"file{n}").stat().st_mtime) for n in (1, 500, 999)}

        assert shown() <= {when, when + 7}
        wait_until_sent(here, timeout=60)
        unmount(here)


def test_file_copied_into_a_hot_folder_is_one_job_and_one_only(
    root: Path, mount_scripted: MountScripted
) -> None:
    with scripted_server.start(root, Manners(hot_folder=True)) as server:
        here = mount_scripted(server, "quirk=upload=in-place")
        for number in range(3):
            shell(f"cp hello d/job{number}", here)
        wait_until_sent(here)
        time.sleep(1)
        jobs = [(f"job{number}", b"hello, world\n") for number in range(3)]
        assert sorted(server.taken) == jobs


# What a program writes in several steps, or under another name first, and the jobs it makes.
IN_STEPS = [
    ("(echo a; echo b) > d/job", [("job", b"a\nb\n")]),
    ("(/bin/echo a; /bin/echo b) > d/job", [("job", b"a\nb\n")]),
    ("sed s/h/j/ hello > d/job", [("job", b"jello, world\n")]),
    (
        "cat hello > d/job; cat hello > d/next",
        [("job", b"hello, world\n"), ("next", b"hello, world\n")],
    ),
    (
        "cp hello d/job; echo a > other; mv other d/job2",
        [("job", b"hello, world\n"), ("job2", b"a\n")],
    ),
    ("cp hello d/job; touch -d 2020-01-01 hello d", [("job", b"hello, world\n")]),
    ("mkdir d/new; : > d/new/job", [("job", b"")]),
]


@pytest.mark.parametrize(("line", "jobs"), IN_STEPS)
def test_hot_folder_gets_no_temporary_file_whatever_a_shell_does(
    root: Path, mount_scripted: MountScripted, line: str, jobs: list[tuple[str, bytes]]
) -> None:
    with scripted_server.start(root, Manners(hot_folder=True)) as server:
        here = mount_scripted(server, "quirk=upload=in-place")
        shell(line, here)
        wait_until_sent(here)
        assert sorted(server.taken) == jobs
        assert not [command for command in server.commands if ".ftpfs-" in command]


@pytest.mark.parametrize(
    ("reply", "twice"), [("550 renaming is not allowed", 2), ("502 no renaming here", 1)]
)
def test_mount_sends_one_file_of_each_folder_twice_where_the_server_never_renames(
    root: Path, mount_scripted: MountScripted, reply: str, twice: int
) -> None:
    (root / "e").mkdir()
    with scripted_server.start(root, Manners(never_renames=reply)) as server:
        here = mount_scripted(server)
        for folder in ("d", "e"):
            for number in range(3):
                (here / folder / f"file{number}").write_bytes(b"content %d" % number)
                wait_until_sent(here)
        assert server.verbs().count("STOR") == 6 + twice
        for folder in ("d", "e"):
            for number in range(3):
                assert (root / folder / f"file{number}").read_bytes() == b"content %d" % number
        (root / "d" / "inner").unlink()
        assert sorted(os.listdir(root / "d")) == sorted(os.listdir(root / "e"))
        assert len(os.listdir(root / "e")) == 3


def test_file_open_on_the_server_is_replaced_when_it_is_free(
    root: Path, mount_scripted: MountScripted
) -> None:
    """As on Windows: an open file can be neither stored, renamed nor deleted."""
    busy = {"hello"}
    with scripted_server.start(root, Manners(is_busy=lambda path: path.name in busy)) as server:
        here = mount_scripted(server)
        shell("echo new > hello", here)
        with pytest.raises(AssertionError, match="is still"):
            wait_until_sent(here, timeout=5)
        assert (root / "hello").read_bytes() == b"hello, world\n"
        state = {"XDG_STATE_HOME": str(here.parent / "state")}
        told = ftpfs("status", str(here), env=state).stdout
        assert "used by another process" in " ".join(told.split())
        assert shell("cat hello", here) == "new\n"
        stores = server.verbs().count("STOR")
        busy.add("inner")
        with pytest.raises(OSError, match="busy"):
            os.unlink(here / "d" / "inner")
        busy.clear()
        wait_until_sent(here)
        assert (root / "hello").read_bytes() == b"new\n"
        assert server.verbs().count("STOR") == stores, "what had arrived was sent again"
        busy.add("inner")
        threading.Timer(0.5, busy.clear).start()
        os.unlink(here / "d" / "inner")
        assert sorted(os.listdir(root)) == ["d", "hello"]
        assert os.listdir(root / "d") == []


def test_status_tells_of_another_mount_at_the_same_server(
    root: Path, mount_scripted: MountScripted
) -> None:
    with scripted_server.start(root) as server:
        first, second = mount_scripted(server), mount_scripted(server)
        state = {"XDG_STATE_HOME": str(first.parent / "state")}

        def told() -> str:
            return " ".join(ftpfs("status", str(first), env=state).stdout.split())

        until(lambda: f"({second}) holds" in told(), 20)
        unmount(second)
        until(lambda: "holds" not in told(), 20)


def test_daemon_ends_in_its_grace_time_while_it_recovers_and_the_server_is_silent(
    root: Path, tmp_path: Path, fuse_binding: str
) -> None:
    """It asks the server what became of a rename during which an earlier mount was killed."""
    server_is_silent = Manners(slow={"MLST": 60.0})
    with scripted_server.start(root, server_is_silent) as server:
        source = f"ftp://{server.user}@{server.host}:{server.port}/"
        state, here = tmp_path / "state", tmp_path / "mnt"
        spools = state / "ftpfs" / "spool"
        here.mkdir()
        folder = mount.spool_folder(Server(server.host, server.port, user=server.user), spools)
        private.make_folder(folder)
        killed = Spool(folder)
        for number in range(3):
            killed.journal.intend(f"/old{number}", f"/new{number}", always=True)
        killed.journal.close()
        os.close(killed._lock)
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "ftpfs", "mount", "--foreground", source, str(here)),
                *("-o", f"binding={fuse_binding},grace=1,reply_timeout=60"),
            ],
            env={**os.environ, "FTPFS_PASSWORD": server.password, "XDG_STATE_HOME": str(state)},
        ) as daemon:
            until(lambda: "MLST" in server.verbs(), within=20)
            began = time.monotonic()
            daemon.terminate()
            daemon.wait(40)
            assert time.monotonic() - began < 15
        assert not os.path.ismount(here)
