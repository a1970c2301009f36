"""Places: the folders of this user's files of ftpfs: state, cache and log.

Owns the choice of the folders; they are made where they are used. A user without a home (a service
in a container, a system account) has them in /var/tmp, which survives a restart of the machine.

Threading: any.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs

from ftpfs.local import private
from ftpfs.settings.config import Config, Server

HOMELESS = Path("/var/tmp")  # noqa: S108 (the owner of our folder in it is checked)


def state() -> Path:
    """The folder of what must not be lost: spools, profiles of servers, sockets of mounts."""
    return _known(platformdirs.user_state_path("ftpfs"), "state")


def cache() -> Path:
    return _known(platformdirs.user_cache_path("ftpfs"), "cache")


def log() -> Path:
    return _known(platformdirs.user_log_path("ftpfs"), "log")


def profile_file(config: Config) -> Path:
    """The file of this server's profile, for this user and kind of connection."""
    server = config.server
    way = f"{server.tls.value} {server.data_mode.value} {server.encoding} {config.network.proxy}"
    key = f"{server.user}@{server.host}:{server.port} {way}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return state() / "servers" / f"{name}.json"


def neighbours_folder(server: Server) -> Path:
    """The folder in which this user's processes with connections to the server find each other.

    One folder for each address, because servers often limit the connections of an address.
    """
    name = hashlib.sha256(f"{server.host}:{server.port}".encode()).hexdigest()[:16]
    return state() / "servers" / f"{name}.now"


def _known(path: Path, kind: str) -> Path:
    """`path` with `~` replaced, or a folder in /var/tmp if this user has no home.

    Raises PermissionDenied if another user owns that folder. Without a home, `~` would remain, and
    be relative to the working directory.
    """
    if path.is_absolute():
        return path
    ours = HOMELESS / f"ftpfs-{os.geteuid()}"
    private.make_folder(ours)
    return ours / kind
