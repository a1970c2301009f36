"""The context: what all uploads to one server share."""

from __future__ import annotations

from dataclasses import dataclass

from ftpfs.ftp.profile import Profile
from ftpfs.ftp.uploading.checks import Checksums, Looks, TornFiles
from ftpfs.ftp.uploading.folders import Folders
from ftpfs.ftp.uploading.probes import Probes
from ftpfs.ftp.uploading.temporaries import Temporaries


@dataclass(frozen=True)
class Context:
    """Gives an upload its access to the shared parts. Each part has its own lock."""

    profile: Profile
    temporaries: Temporaries
    folders: Folders
    probes: Probes
    checksums: Checksums
    torn: TornFiles
    looks: Looks
