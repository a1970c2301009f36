"""ftpfs: FTP and FTPS servers as local folders, and as file systems of Python programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftpfs.api.filesystem import FTPESFileSystem, FTPFileSystem, FTPSFileSystem

__all__ = ["FTPESFileSystem", "FTPFileSystem", "FTPSFileSystem"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The file systems, imported when they are asked for: most programs here need no fsspec."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ftpfs.api import filesystem

    return getattr(filesystem, name)
