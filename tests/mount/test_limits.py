"""Limits of the rate of a mount: as an option, and changed while it runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.mount.conftest import MountDir, Mounted, ftpfs, wait_until_sent

pytestmark = pytest.mark.mount

MIB = 1 << 20


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def change(mounted: Mounted, *words: str) -> None:
    done = ftpfs("set", str(mounted.path), *words)
    assert (done.returncode, done.stderr) == (0, "")


def seconds_to_send(mounted: Mounted, name: str, data: bytes) -> float:
    began = time.monotonic()
    (mounted.path / name).write_bytes(data)
    wait_until_sent(mounted.path)
    assert (mounted.disk / name).read_bytes() == data
    return time.monotonic() - began


def test_mount_keeps_to_its_limits_and_to_those_that_are_set_later(mount_dir: MountDir) -> None:
    mounted = mount_dir(options="limit_down=1M,limit_up=00:00-24:00=1M")
    data = os.urandom(2 * MIB)
    assert seconds_to_send(mounted, "up", data) > 1.7
    (mounted.disk / "down").write_bytes(data)
    mounted.forget()
    began = time.monotonic()
    assert (mounted.path / "down").read_bytes() == data
    assert time.monotonic() - began > 1.7

    change(mounted, "limit_up=off", "limit-down=4M")
    slow = seconds_to_send(mounted, "up2", data)
    (mounted.disk / "down2").write_bytes(data * 2)
    mounted.forget()
    began = time.monotonic()
    assert (mounted.path / "down2").read_bytes() == data * 2
    assert time.monotonic() - began > 0.7
    change(mounted, "limit_up=256K")
    assert seconds_to_send(mounted, "up3", data[: MIB // 2]) > max(1.7, slow / 4)


def test_set_frees_an_upload_that_is_under_way(mount_dir: MountDir) -> None:
    mounted = mount_dir(options="limit_up=1K")
    (mounted.path / "file").write_bytes(data := os.urandom(8 * MIB))
    time.sleep(1)
    change(mounted, "limit_up=off")
    assert (mounted.disk / "file").read_bytes() == data


def test_status_shows_the_limits(mount_dir: MountDir) -> None:
    mounted = mount_dir(options="limit_down=00:00-24:00=2M")
    (told,) = json.loads(ftpfs("status", "--json", str(mounted.path)).stdout)
    assert told["limits"] == {
        "down": "00:00-24:00=2M",
        "down_now": 2 * MIB,
        "up": "off",
        "up_now": None,
    }
    assert (
        "down 2.1 MB/s now (00:00-24:00=2M), up none" in ftpfs("status", str(mounted.path)).stdout
    )
    change(mounted, "limit_down=off")
    (told,) = json.loads(ftpfs("status", "--json", str(mounted.path)).stdout)
    assert told["limits"] is None
    assert "\n  limits " not in ftpfs("status", str(mounted.path)).stdout


def test_set_refuses_what_cannot_be_changed(mount_dir: MountDir, tmp_path: Path) -> None:
    mounted = mount_dir()
    for words, reason in (
        (["uid=0"], "uid: not among those that a running mount can change"),
        (["limit_side=1M"], "limit_side: no option"),
        (["limit_up=fast"], "option limit_up: expected a rate"),
        (["limit_up=1M", "limit_down=1"], "option limit_down: the lowest limit is 1K"),
    ):
        done = ftpfs("set", str(mounted.path), *words)
        assert done.returncode == 1
        assert reason in done.stderr
    (told,) = json.loads(ftpfs("status", "--json", str(mounted.path)).stdout)
    assert told["limits"] is None
    assert ftpfs("set", str(mounted.path)).returncode == 2
    assert ftpfs("set", str(mounted.path), "limit_up").returncode == 2
    assert ftpfs("set", str(tmp_path), "limit_up=1M").returncode == 1


def test_names_and_listings_do_not_wait_for_the_limit(mount_dir: MountDir) -> None:
    mounted = mount_dir(options="limit_down=16K")
    (mounted.disk / "file").write_bytes(os.urandom(MIB))
    for number in range(200):
        (mounted.disk / f"f{number}").touch()
    with (mounted.path / "file").open("rb") as file:
        file.read(1)
        began = time.monotonic()
        for _ in range(3):
            mounted.forget()
            assert len(os.listdir(mounted.path)) == 201
        assert time.monotonic() - began < 5
