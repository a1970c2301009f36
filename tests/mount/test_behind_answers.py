"""A listing that is a few seconds old answers at once, and is looked at again behind the answer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import RemoteDir
from tests.mount.conftest import MountDir, Mounted, daemons_of
from tests.support.relay import Relay
from tests.support.waiting import until, until_gone

pytestmark = pytest.mark.mount

# Seconds after which a listing that answers an `ls` is looked at again, and a little more; and
# those after which no `ls` of a far server is answered from it.
OLD, TOO_OLD = 5.3, 10.3
# What an answer from memory may take on a busy machine (seconds).
AT_ONCE = 2.0
FAR = "quirk=round_trip=20"


@pytest.fixture
def folder(remote_dir: RemoteDir) -> Path:
    """A folder on the server's disk."""
    for name in ("gone", "grows", "stays"):
        remote_dir.write(f"folder/{name}", b"x")
    return remote_dir.disk / "folder"


def change(remote_dir: RemoteDir) -> None:
    """What a scanner and others do while nobody looks."""
    remote_dir.write("folder/new", b"new")
    remote_dir.write("folder/grows", b"longer than before")
    (remote_dir.disk / "folder" / "gone").unlink()


def names(mounted: Mounted) -> list[str]:
    return sorted(os.listdir(mounted.path / "folder"))


BEFORE, AFTER = ["gone", "grows", "stays"], ["grows", "new", "stays"]


def test_second_ls_shows_what_others_changed_and_costs_one_listing(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, through=relay, options=FAR)
    assert names(mounted) == BEFORE
    change(remote_dir)
    relay.reset()
    time.sleep(OLD)
    assert "new" not in names(mounted), "from memory, but for names that are gone by now"
    until(lambda: names(mounted) == AFTER, within=4)
    assert (mounted.path / "folder" / "grows").stat().st_size == len("longer than before")
    assert relay.count("LIST", "MLSD") == 1


def test_program_that_lists_again_and_again_costs_a_listing_every_five_seconds(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, through=relay, options=FAR)
    assert names(mounted) == BEFORE
    relay.reset()
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < 16:
        assert names(mounted) == BEFORE
        assert (mounted.path / "folder" / "stays").stat().st_size == 1
        time.sleep(0.2)
    listings = relay.count("LIST", "MLSD")
    assert 1 <= listings <= passed / 5
    assert len(relay.verbs) <= 10 * listings, "nothing but the listings"


def test_ls_of_an_old_listing_does_not_wait_for_a_server_that_is_slow(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, through=relay, options=FAR)
    assert names(mounted) == BEFORE
    change(remote_dir)
    time.sleep(OLD)
    relay.stall_replies()
    begun = time.monotonic()
    assert names(mounted) == BEFORE
    assert time.monotonic() - begun < AT_ONCE
    relay.stall_replies(False)
    until(lambda: names(mounted) == AFTER, within=4)


def test_ls_of_an_old_listing_does_not_wait_for_a_server_that_is_away(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, through=relay, options=FAR)
    assert names(mounted) == BEFORE
    change(remote_dir)
    relay.vanish()
    time.sleep(OLD)
    begun = time.monotonic()
    for _ in range(20):
        assert names(mounted) == BEFORE
    assert time.monotonic() - begun < AT_ONCE
    relay.come_back()
    until(lambda: names(mounted) == AFTER, within=30)


def test_ls_after_a_long_pause_shows_what_others_changed(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, options=FAR)
    assert names(mounted) == BEFORE
    change(remote_dir)
    time.sleep(TOO_OLD)
    assert names(mounted) == AFTER


def test_ls_shows_changes_within_ten_seconds_where_no_connection_is_to_spare(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, through=relay, options=f"{FAR},max_connections=1")
    assert names(mounted) == BEFORE
    begun = time.monotonic()
    change(remote_dir)
    relay.reset()
    time.sleep(OLD)
    assert names(mounted) == BEFORE
    time.sleep(1)
    assert relay.count("LIST", "MLSD") == 0
    time.sleep(max(0.0, begun + TOO_OLD - time.monotonic()))
    assert names(mounted) == AFTER
    assert relay.count("LIST", "MLSD") == 1


def test_name_that_is_looked_up_again_and_again_is_shown_as_others_leave_it(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, fuse_binding: str
) -> None:
    """Nobody lists the folder, and no file is opened."""
    mounted = mount_dir(binding=fuse_binding)
    here = mounted.path / "folder"
    assert names(mounted) == BEFORE
    change(remote_dir)
    until(lambda: (here / "grows").stat().st_size > 1, within=12)
    until(lambda: not (here / "gone").exists(), within=3)


def test_kernel_is_told_what_a_look_behind_an_answer_has_found(
    remote_dir: RemoteDir, folder: Path, mount_dir: MountDir, fuse_binding: str
) -> None:
    """libfuse 2 cannot tell it: there the kernel asks when it believes its attributes no more."""
    believes = 60 if fuse_binding == "mfusepy" else 1
    mounted = mount_dir(binding=fuse_binding, options=f"{FAR},attr_timeout={believes}")
    here = mounted.path / "folder"
    assert names(mounted) == BEFORE
    for name in BEFORE:
        assert (here / name).stat().st_size == 1
    change(remote_dir)
    time.sleep(OLD)
    assert names(mounted) == BEFORE
    until(lambda: (here / "grows").stat().st_size > 1, within=5)
    until(lambda: not (here / "gone").exists(), within=3)
    assert (here / "stays").stat().st_size == 1


def test_unmount_does_not_wait_for_a_look_that_hangs(
    folder: Path, mount_dir: MountDir, relay: Relay, fuse_binding: str
) -> None:
    mounted = mount_dir(binding=fuse_binding, through=relay, options=FAR)
    assert names(mounted) == BEFORE
    time.sleep(OLD)
    relay.stall_replies()
    assert names(mounted) == BEFORE
    time.sleep(0.5)  # the look is under way
    begun = time.monotonic()
    mounted.unmount()
    until_gone(lambda: daemons_of(mounted))
    assert time.monotonic() - begun < 15
