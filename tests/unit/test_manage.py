"""What status, sync, forget and umount make of what daemons say, die of, or are stuck in."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftpfs import control, errors, manage, mountpoints
from ftpfs.control import Answer, Control, Reply, Request
from ftpfs.core.status import PendingFile, UploadStatus
from ftpfs.manage import Progress
from ftpfs.mountpoints import Mountpoint
from tests.unit.test_control import REPORT
from tests.unit.test_show import pending, uploads

HERE, OTHER = "/mnt/nas", "/mnt/other"

Serve = Callable[..., Control]


class System:
    """What is mounted, as far as this test is concerned."""

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
        served = Control(control.default_folder(), mountpoint, answers)
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
    """The progress that somebody was shown."""

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
    def test_it_waits_until_the_daemon_has_left_and_shows_the_way(
        self, serve: Serve, system: System
    ) -> None:
        a, b = pending("/a"), pending("/b")
        serve(
            follow=saying(
                told("mounted", a, b), told("leaving", a, b), told("leaving", b), told("left")
            )
        )
        shown = Shown()
        assert manage.umount(HERE, shown, now=False) == []
        assert shown.files == [2, 1, 0]
        assert shown.ended
        assert system.done == ["unmounted"]

    def test_what_failed_and_what_is_left_is_named(self, serve: Serve) -> None:
        lost = pending("/lost", "failed", error="552 quota")
        serve(follow=saying(told("mounted"), told("left", lost, pending("/b"), pending("/c"))))
        first, second = manage.umount(HERE, Shown(), now=False)
        assert first == f"{HERE}/lost: not uploaded (552 quota); kept in /spool"
        assert second.startswith(f"{HERE}: not on the server yet: 2 files, 2.0 kB, waiting in ")
        assert "/spool for the next mount" in second

    def test_a_server_that_is_away_is_not_waited_for_for_ever(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manage, "STUCK", 0.3)
        away = pending("/a", attempts=3, error="refused the connection")

        def follow(_request: Request) -> Iterator[Reply]:
            while True:
                yield told("leaving", away, pending("/b"))
                time.sleep(0.02)

        serve(follow=follow)
        (line,) = manage.umount(HERE, Shown(), now=False)
        assert "not on the server yet: 2 files, 2.0 kB, waiting in /spool" in line
        assert "; the daemon goes on trying (refused the connection)" in line

    def test_a_slow_server_is_waited_for(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As long as something moves, or nothing failed."""
        monkeypatch.setattr(manage, "STUCK", 0.1)

        def follow(_request: Request) -> Iterator[Reply]:
            for sent in range(0, 1000, 100):
                yield told("leaving", pending("/a", "uploading", sent=sent, error="before"))
                time.sleep(0.05)
            for _ in range(10):
                yield told("leaving", pending("/a", "uploading", sent=999))
                time.sleep(0.05)
            yield told("left")

        serve(follow=follow)
        assert manage.umount(HERE, Shown(), now=False) == []

    def test_interrupted_it_says_what_goes_on_without_it(self, serve: Serve) -> None:
        serve(follow=saying(*[told("leaving", pending("/a"), pending("/b"))] * 3))

        @contextlib.contextmanager
        def interrupted() -> Iterator[Progress]:
            def advance(_status: UploadStatus) -> None:
                raise KeyboardInterrupt

            yield advance

        with pytest.raises(KeyboardInterrupt, match=r"2 files, 2\.0 kB, left to the background"):
            manage.umount(HERE, interrupted, now=False)

    def test_a_daemon_that_dies_on_the_way_is_told_of(self, serve: Serve) -> None:
        def die(_request: Request) -> Iterator[Reply]:
            yield told("mounted", pending("/a"))
            raise ConnectionResetError

        serve(follow=die)
        (line,) = manage.umount(HERE, Shown(), now=False)
        assert "the daemon died" in line
        assert "/spool" in line

    def test_now_hurries_the_daemon_once_it_is_unmounted(
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
        (line,) = manage.umount(HERE, Shown(), now=True)
        assert "for the next mount" in line
        assert system.done == ["unmounted", "hurried"]

    def test_a_busy_one_is_neither_hurried_nor_waited_for(
        self, serve: Serve, system: System
    ) -> None:
        system.busy = True
        serve(follow=saying(told("mounted")))  # "hurry" would be an error of another kind
        with pytest.raises(errors.FtpfsError, match="busy"):
            manage.umount(HERE, Shown(), now=True)

    def test_the_mount_of_a_dead_daemon_is_taken_away(self, system: System) -> None:
        system.dead.add(HERE)
        assert manage.umount(HERE, Shown(), now=False) == []
        assert system.done == ["unmounted lazily"]

    def test_one_without_a_socket_is_unmounted_all_the_same(self, system: System) -> None:
        assert manage.umount(HERE, Shown(), now=False) == []
        assert system.done == ["unmounted"]

    def test_what_is_not_mounted_is_refused(self, system: System) -> None:
        with pytest.raises(errors.InvalidArgument, match="nothing of ftpfs"):
            manage.umount("/mnt/nothing", Shown(), now=False)
        assert system.done == []


class TestSync:
    def test_each_failure_is_a_line_with_its_whole_path(self, serve: Serve) -> None:
        asked: list[object] = []

        def sync(request: Request) -> Iterator[Reply]:
            asked.append(request["path"])
            yield {"report": told("mounted", pending("/a"))}
            yield {"report": told("mounted"), "failures": [["/sub/x", "552 quota"]]}

        serve(sync=sync)
        shown = Shown()
        assert manage.sync(f"{HERE}/sub/", shown.advance) == [f"{HERE}/sub/x: 552 quota"]
        assert asked == ["/sub"]
        assert shown.files == [1, 0]

    def test_without_a_path_all_are_waited_for(self, serve: Serve, system: System) -> None:
        system.mounts.append(OTHER)
        for path in (HERE, OTHER):
            serve(
                path,
                sync=saying(
                    {"report": told("mounted", mountpoint=path), "failures": [["/x", "why"]]}
                ),
            )
        lines = manage.sync(None, Shown().advance)
        assert sorted(lines) == [f"{HERE}/x: why", f"{OTHER}/x: why"]

    def test_a_mount_that_cannot_be_asked_is_not_passed_over(
        self, serve: Serve, system: System
    ) -> None:
        system.mounts.append(OTHER)
        serve(HERE, sync=saying({"report": told("mounted"), "failures": [["/x", "why"]]}))
        silent, lost = manage.sync(None, Shown().advance)
        assert silent.startswith(f"{OTHER}: its daemon has no socket in ")
        assert lost == f"{HERE}/x: why"
        system.dead.add(OTHER)
        with pytest.raises(errors.FtpfsError, match="its daemon died"):
            manage.sync(OTHER, Shown().advance)


class TestMounts:
    def test_one_that_still_uploads_is_listed_beside_its_successor(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for pid, state in ((10, "leaving"), (20, "mounted")):
            monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
            serve(HERE, status=saying(told(state)))
        found = manage.mounts()
        assert [mount.path for mount in found] == [HERE, HERE]
        states = {mount.report.state for mount in found if mount.report}
        assert states == {"leaving", "mounted"}

    def test_one_that_only_uploads_any_more_is_found_by_its_mountpoint(
        self, serve: Serve, system: System
    ) -> None:
        system.mounts.clear()
        serve(HERE, status=saying(told("leaving")))
        (found,) = manage.mounts(HERE)
        assert found.report
        assert manage.mounts() == [found]
        with pytest.raises(errors.InvalidArgument, match="nothing of ftpfs"):
            manage.mounts(OTHER)

    def test_a_stuck_daemon_is_trouble(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        def stuck(_request: Request) -> Iterator[Reply]:
            time.sleep(2)
            yield told("mounted")

        monkeypatch.setattr(control, "ask", _impatient(control.ask))
        serve(HERE, status=stuck)
        (found,) = manage.mounts()
        assert "did not answer for 0.3 s" in found.trouble
        assert not found.is_well

    def test_a_dead_daemon_and_one_without_a_socket_are_told_apart(self, system: System) -> None:
        system.mounts.append(OTHER)
        system.dead.add(OTHER)
        no_socket, dead = manage.mounts()
        assert "no socket in" in no_socket.trouble
        assert "daemon died" in dead.trouble
        assert dead.source == "ftp://other/"


def _impatient(ask: Callable[..., Iterator[Reply]]) -> Callable[..., Iterator[Reply]]:
    return lambda daemon, what, **words: ask(daemon, what, silence=0.3, **words)


def test_forget_goes_to_the_mount_that_holds_the_path(serve: Serve, system: System) -> None:
    system.mounts.append(OTHER)
    asked = []

    def forget(request: Request) -> Iterator[Reply]:
        asked.append(request["path"])
        yield {}

    serve(OTHER, forget=forget)
    manage.forget(f"{OTHER}/a b")
    assert asked == ["/a b"]
    with pytest.raises(errors.InvalidArgument, match="not in anything"):
        manage.forget("/home")


def test_escapes_of_the_mount_table_are_undone() -> None:
    assert mountpoints._unescaped(r"/mnt/a\040b\134c\011d") == "/mnt/a b\\c\td"
    assert mountpoints._unescaped("/mnt/\udcffé") == "/mnt/\udcffé"
