"""status, sync, forget and umount with daemons that answer, die, or are stuck."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.commands import mounts
from ftpfs.commands.mounts import Progress
from ftpfs.daemon import control_socket, mountpoints
from ftpfs.daemon.control_socket import Answer, Control, Reply, Request
from ftpfs.daemon.mountpoints import Mountpoint
from ftpfs.model.status import PendingFile, UploadStatus
from tests.unit.commands.test_show import pending, uploads
from tests.unit.daemon.test_control_socket import REPORT

HERE, OTHER = "/mnt/nas", "/mnt/other"

Serve = Callable[..., Control]


class System:
    """What this test believes to be mounted."""

    def __init__(self) -> None:
        self.mounts = [HERE]
        self.dead: set[str] = set()
        self.done: list[str] = []
        self.busy = False

    def table(self) -> list[Mountpoint]:
        return [Mountpoint(path, f"ftp://{path[5:]}/", os.geteuid()) for path in self.mounts]

    def unmount(self, path: str, *, lazy: bool = False) -> None:
        if self.busy:
            raise errors.FtpfsError("busy")
        self.done.append("unmounted lazily" if lazy else "unmounted")
        self.mounts.remove(path)


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = System()
    monkeypatch.setattr(mountpoints, "table", made.table)
    monkeypatch.setattr(mountpoints, "unmount", made.unmount)
    monkeypatch.setattr(mountpoints, "crashed", made.dead.__contains__)
    return made


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(mountpoint, question=answer, ...)`: a daemon, as far as the socket is concerned."""
    running = []

    def start(mountpoint: str = HERE, **answers: Answer) -> Control:
        served = Control(control_socket.default_folder(), mountpoint, answers)
        served.start()
        running.append(served)
        return served

    yield start
    for served in running:
        served.close()


def told(state: str, *files: PendingFile, mountpoint: str = HERE) -> Reply:
    status = replace(REPORT.status, uploads=uploads(*files))
    return replace(REPORT, mountpoint=mountpoint, state=state, status=status).to_reply()


def saying(*replies: Reply) -> Answer:
    def answer(_request: Request) -> Iterator[Reply]:
        yield from replies

    return answer


class Shown:
    """The progress that the user was shown."""

    def __init__(self) -> None:
        self.files: list[int] = []
        self.ended = False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Progress]:
        yield self.advance
        self.ended = True

    def advance(self, status: UploadStatus) -> None:
        self.files.append(status.files)


class TestUmount:
    def test_umount_waits_for_the_daemon_and_shows_progress(
        self, serve: Serve, system: System
    ) -> None:
        a, b = pending("/a"), pending("/b")
        serve(
            follow=saying(
                told("mounted", a, b), told("leaving", a, b), told("leaving", b), told("left")
            )
        )
        shown = Shown()
        assert mounts.umount(HERE, shown, now=False) == []
        assert shown.files == [2, 1, 0]
        assert shown.ended
        assert system.done == ["unmounted"]

    def test_umount_names_failed_files_and_what_is_left(self, serve: Serve) -> None:
        lost = pending("/lost", "failed", error="552 quota")
        serve(follow=saying(told("mounted"), told("left", lost, pending("/b"), pending("/c"))))
        first, second = mounts.umount(HERE, Shown(), now=False)
        assert first == f"{HERE}/lost: not uploaded (552 quota); kept in /spool"
        assert second.startswith(f"{HERE}: not on the server yet: 2 files, 2.0 kB, waiting in ")
        assert "/spool for the next mount" in second

    def test_umount_gives_up_when_the_server_is_away(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mounts, "STUCK_SECONDS", 0.3)
        away = pending("/a", attempts=3, error="refused the connection")

        def follow(_request: Request) -> Iterator[Reply]:
            while True:
                yield told("leaving", away, pending("/b"))
                time.sleep(0.02)

        serve(follow=follow)
        (line,) = mounts.umount(HERE, Shown(), now=False)
        assert "not on the server yet: 2 files, 2.0 kB, waiting in /spool" in line
        assert "; the daemon goes on trying (refused the connection)" in line

    def test_umount_waits_for_a_slow_server(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As long as something moves, or nothing failed."""
        monkeypatch.setattr(mounts, "STUCK_SECONDS", 0.1)

        def follow(_request: Request) -> Iterator[Reply]:
            for sent in range(0, 1000, 100):
                yield told("leaving", pending("/a", "uploading", sent=sent, error="before"))
                time.sleep(0.05)
            for _ in range(10):
                yield told("leaving", pending("/a", "uploading", sent=999))
                time.sleep(0.05)
            yield told("left")

        serve(follow=follow)
        assert mounts.umount(HERE, Shown(), now=False) == []

    def test_interrupted_umount_tells_what_goes_on_in_the_background(self, serve: Serve) -> None:
        serve(follow=saying(*[told("leaving", pending("/a"), pending("/b"))] * 3))

        @contextlib.contextmanager
        def interrupted() -> Iterator[Progress]:
            def advance(_status: UploadStatus) -> None:
                raise KeyboardInterrupt

            yield advance

        with pytest.raises(KeyboardInterrupt, match=r"2 files, 2\.0 kB, left to the background"):
            mounts.umount(HERE, interrupted, now=False)

    def test_umount_tells_of_a_daemon_that_dies_meanwhile(self, serve: Serve) -> None:
        def die(_request: Request) -> Iterator[Reply]:
            yield told("mounted", pending("/a"))
            raise ConnectionResetError

        serve(follow=die)
        (line,) = mounts.umount(HERE, Shown(), now=False)
        assert "the daemon died" in line
        assert "/spool" in line

    def test_umount_now_hurries_the_daemon_after_unmounting(
        self, serve: Serve, system: System
    ) -> None:
        hurried = threading.Event()

        def follow(_request: Request) -> Iterator[Reply]:
            yield told("mounted", pending("/a"))
            assert hurried.wait(5)
            yield told("left", pending("/a"))

        def hurry(_request: Request) -> Iterator[Reply]:
            system.done.append("hurried")
            hurried.set()
            yield {}

        serve(follow=follow, hurry=hurry)
        (line,) = mounts.umount(HERE, Shown(), now=True)
        assert "for the next mount" in line
        assert system.done == ["unmounted", "hurried"]

    def test_busy_mount_is_neither_hurried_nor_waited_for(
        self, serve: Serve, system: System
    ) -> None:
        system.busy = True
        serve(follow=saying(told("mounted")))  # "hurry" would be an error of another kind
        with pytest.raises(errors.FtpfsError, match="busy"):
            mounts.umount(HERE, Shown(), now=True)

    def test_umount_removes_the_mount_of_a_dead_daemon(self, system: System) -> None:
        system.dead.add(HERE)
        assert mounts.umount(HERE, Shown(), now=False) == []
        assert system.done == ["unmounted lazily"]

    def test_mount_without_a_socket_is_unmounted(self, system: System) -> None:
        assert mounts.umount(HERE, Shown(), now=False) == []
        assert system.done == ["unmounted"]

    def test_umount_refuses_a_folder_that_is_not_mounted(self, system: System) -> None:
        with pytest.raises(errors.InvalidArgument, match="nothing of ftpfs"):
            mounts.umount("/mnt/nothing", Shown(), now=False)
        assert system.done == []


class TestSync:
    def test_sync_prints_a_line_with_the_whole_path_for_each_failure(self, serve: Serve) -> None:
        asked: list[object] = []

        def sync(request: Request) -> Iterator[Reply]:
            asked.append(request["path"])
            yield {"report": told("mounted", pending("/a"))}
            yield {"report": told("mounted"), "failures": [["/sub/x", "552 quota"]]}

        serve(sync=sync)
        shown = Shown()
        assert mounts.sync(f"{HERE}/sub/", shown.advance) == [f"{HERE}/sub/x: 552 quota"]
        assert asked == ["/sub"]
        assert shown.files == [1, 0]

    def test_sync_waits_for_all_mounts_without_a_path(self, serve: Serve, system: System) -> None:
        system.mounts.append(OTHER)
        for path in (HERE, OTHER):
            serve(
                path,
                sync=saying(
                    {"report": told("mounted", mountpoint=path), "failures": [["/x", "why"]]}
                ),
            )
        lines = mounts.sync(None, Shown().advance)
        assert sorted(lines) == [f"{HERE}/x: why", f"{OTHER}/x: why"]

    def test_sync_reports_a_mount_that_does_not_answer(self, serve: Serve, system: System) -> None:
        system.mounts.append(OTHER)
        serve(HERE, sync=saying({"report": told("mounted"), "failures": [["/x", "why"]]}))
        silent, lost = mounts.sync(None, Shown().advance)
        assert silent.startswith(f"{OTHER}: its daemon has no socket in ")
        assert lost == f"{HERE}/x: why"
        system.dead.add(OTHER)
        with pytest.raises(errors.FtpfsError, match="its daemon died"):
            mounts.sync(OTHER, Shown().advance)


class TestMounts:
    def test_daemon_that_still_uploads_is_listed_beside_its_successor(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for pid, state in ((10, "leaving"), (20, "mounted")):
            monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
            serve(HERE, status=saying(told(state)))
        found = mounts.mounts()
        assert [mount.path for mount in found] == [HERE, HERE]
        states = {mount.report.state for mount in found if mount.report}
        assert states == {"leaving", "mounted"}

    def test_unmounted_daemon_that_uploads_is_found_by_its_mountpoint(
        self, serve: Serve, system: System
    ) -> None:
        system.mounts.clear()
        serve(HERE, status=saying(told("leaving")))
        (found,) = mounts.mounts(HERE)
        assert found.report
        assert mounts.mounts() == [found]
        with pytest.raises(errors.InvalidArgument, match="nothing of ftpfs"):
            mounts.mounts(OTHER)

    def test_stuck_daemon_is_reported(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        def stuck(_request: Request) -> Iterator[Reply]:
            time.sleep(2)
            yield told("mounted")

        monkeypatch.setattr(control_socket, "ask", _impatient(control_socket.ask))
        serve(HERE, status=stuck)
        (found,) = mounts.mounts()
        assert "did not answer for 0.3 s" in found.trouble
        assert not found.is_well
        assert not found.unseen

    def test_daemon_of_another_version_is_not_taken_for_a_broken_one(self, serve: Serve) -> None:
        serve(HERE, status=saying({"pid": 1}))
        (found,) = mounts.mounts()
        assert "another version" in found.trouble
        assert found.unseen

    def test_dead_daemon_and_daemon_without_a_socket_are_told_apart(self, system: System) -> None:
        system.mounts.append(OTHER)
        system.dead.add(OTHER)
        no_socket, dead = mounts.mounts()
        assert "no socket in" in no_socket.trouble
        assert "daemon died" in dead.trouble
        assert dead.source == "ftp://other/"
        assert (no_socket.unseen, dead.unseen) == (True, False)


def _impatient(ask: Callable[..., Iterator[Reply]]) -> Callable[..., Iterator[Reply]]:
    return lambda daemon, what, **words: ask(daemon, what, silence=0.3, **words)


def test_forget_goes_to_the_mount_that_contains_the_path(serve: Serve, system: System) -> None:
    system.mounts.append(OTHER)
    asked = []

    def forget(request: Request) -> Iterator[Reply]:
        asked.append(request["path"])
        yield {}

    serve(OTHER, forget=forget)
    mounts.forget(f"{OTHER}/a b")
    assert asked == ["/a b"]
    with pytest.raises(errors.InvalidArgument, match="not in a mount"):
        mounts.forget("/home")


def test_escapes_in_the_mount_table_are_decoded() -> None:
    assert mountpoints._unescaped(r"/mnt/a\040b\134c\011d") == "/mnt/a b\\c\td"
    assert mountpoints._unescaped("/mnt/\udcffé") == "/mnt/\udcffé"
