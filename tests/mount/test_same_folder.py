"""Two programs in one folder: what one does there waits for no slow request of the other."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import MountServer, wait_until_sent
from tests.support import scripted_server
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import until

pytestmark = pytest.mark.mount

# How long the slow request takes, and what counts as no wait for it (s).
SLOW, SOON = 6.0, 3.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "d" / "sub").mkdir(parents=True)
    for number in range(10):
        (folder / "d" / f"file{number}").write_bytes(b"%d" % number)
    return folder


@contextlib.contextmanager
def busy(server: ScriptedServer, line: str, do: Callable[[], object]) -> Iterator[None]:
    """Another program does something for which it waits for a slow command that begins so."""
    server.manners.slow = {line: SLOW}
    before = len(server.commands)
    thread = threading.Thread(target=do)
    thread.start()
    try:
        until(lambda: any(sent.startswith(line) for sent in server.commands[before:]))
        began = time.monotonic()
        yield
        assert time.monotonic() - began < SLOW, "the other program's request is over"
    finally:
        server.manners.slow = {}
        thread.join()


def at_once(do: Callable[[], object]) -> None:
    began = time.monotonic()
    do()
    took = time.monotonic() - began
    assert took < SOON, f"waited for {took:.1f} s"


@pytest.mark.parametrize("options", ["", "list_ttl=1"], ids=["first", "stale"])
def test_name_is_looked_up_and_read_while_its_folder_is_listed(
    options: str, root: Path, mount_server: MountServer, fuse_binding: str
) -> None:
    with scripted_server.start(root) as server:
        here = mount_server(server, root, binding=fuse_binding, options=options).path
        os.listdir(here)
        if options:
            os.listdir(here / "d")
            time.sleep(1.5)
        with busy(server, "MLSD", lambda: os.listdir(here / "d")):
            at_once((here / "d" / "file1").stat)
            at_once((here / "d" / "file2").read_bytes)
            at_once((here / "d" / "file3").unlink)
        assert sorted(os.listdir(here / "d")) == sorted(os.listdir(root / "d"))


def test_folder_is_used_while_a_file_is_sent_into_it(
    root: Path, mount_server: MountServer, fuse_binding: str
) -> None:
    with scripted_server.start(root) as server:
        here = mount_server(server, root, binding=fuse_binding).path / "d"
        os.listdir(here)

        def send() -> None:
            (here / "new").write_bytes(b"new")
            wait_until_sent(here, timeout=60)

        with busy(server, "STOR", send):
            for name in ("file1", "new"):
                at_once((here / name).stat)
                at_once((here / name).read_bytes)
            at_once(lambda: os.listdir(here))
            at_once(lambda: (here / "file2").rename(here / "moved"))
            at_once((here / "file3").unlink)
            at_once((here / "made").mkdir)
            at_once(lambda: (here / "other").write_bytes(b"other"))
            at_once(lambda: (here / "file4").write_bytes(b"changed"))
        wait_until_sent(here, timeout=60)
        assert (root / "d" / "other").read_bytes() == b"other"


@pytest.mark.parametrize(
    ("line", "deed"),
    [
        ("RNTO", lambda d: (d / "file0").rename(d / "moved0")),
        ("DELE", lambda d: (d / "file0").unlink()),
        ("MKD", lambda d: (d / "made0").mkdir()),
        ("SITE CHMOD", lambda d: (d / "file0").chmod(0o600)),
        ("MFMT", lambda d: os.utime(d / "file0", (1, 1))),
    ],
    ids=["rename", "unlink", "mkdir", "chmod", "utime"],
)
def test_other_files_of_a_folder_are_used_while_one_is_changed(
    line: str,
    deed: Callable[[Path], None],
    root: Path,
    mount_server: MountServer,
    fuse_binding: str,
) -> None:
    with scripted_server.start(root) as server:
        here = mount_server(server, root, binding=fuse_binding).path / "d"
        for name in os.listdir(here):
            (here / name).stat()  # the kernel lets no name be looked up while another is changed
        with busy(server, line, lambda: deed(here)):
            at_once((here / "file1").stat)
            at_once((here / "file2").read_bytes)
            at_once((here / "sub").stat)
        wait_until_sent(here, timeout=60)
