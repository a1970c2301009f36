"""Where a user's files are."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from ftpfs import errors
from ftpfs.daemon import places


def test_user_without_a_home_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python leaves `~` as it is then, and a folder `~` was made in the working directory."""
    monkeypatch.setattr(places, "HOMELESS", tmp_path)
    monkeypatch.setattr(platformdirs, "user_state_path", lambda name: Path("~/.local/state", name))
    ours = tmp_path / f"ftpfs-{os.geteuid()}"
    assert places.state() == ours / "state"
    assert ours.stat().st_mode & 0o777 == 0o700
    ours.rmdir()
    ours.symlink_to("/etc")
    with pytest.raises(errors.PermissionDenied, match="symbolic link"):
        places.state()


def test_user_with_a_home_has_its_files_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert places.state() == tmp_path / "ftpfs"
