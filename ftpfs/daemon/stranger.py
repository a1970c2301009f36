"""Another project's distribution called `ftpfs`, installed in the same environment.

This project's distribution is `ftpfs-mount`. The name `ftpfs` on the package index belongs to an
older FTP mount, which also installs a command `ftpfs`: the one that was installed last has it. An
early version of this project was called `ftpfs`, too. It has the helper of mount(8), the other one
has not.

Threading: one function without state.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

_HELPER = "mount.ftpfs"
_METADATA = (".dist-info", ".egg-info")


def warning(folders: Iterable[str] | None = None) -> str:
    """One line that names the other distribution; "" if there is none.

    `folders`: where Python looks for modules, by default `sys.path`. Reading their names takes less
    than a millisecond. importlib.metadata takes 20, so it is imported only for a name that fits.
    """
    folders = list(sys.path if folders is None else folders)
    near = [folder for folder in folders if _has_one_of_that_name(folder)]
    if not near:
        return ""
    from importlib import metadata

    for found in metadata.distributions(name="ftpfs", path=near):
        if not any(each.name == _HELPER for each in found.entry_points):
            return (
                f"another project's ftpfs {found.version} is installed here, with a command of the "
                "same name (pip uninstall ftpfs, then pip install --force-reinstall ftpfs-mount)"
            )
    return ""


def _has_one_of_that_name(folder: str) -> bool:
    try:
        names = os.listdir(folder or ".")
    except OSError:  # a zip file, or a folder that is gone
        return False
    return any(
        name.lower().startswith(("ftpfs-", "ftpfs.")) and name.endswith(_METADATA) for name in names
    )
