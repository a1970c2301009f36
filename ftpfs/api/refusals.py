"""Errors as Python programs know them: OSError and its kinds, by the errno table of `errors`.

Threading: any thread.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from ftpfs import errors


@contextlib.contextmanager
def told(path: str = "") -> Iterator[None]:
    """Raise the errors of the block as OSError; `path` becomes their `filename`."""
    try:
        yield
    except errors.FtpfsError as error:
        raise os_error(error, path) from error


def os_error(error: errors.FtpfsError, path: str) -> OSError:
    """The built-in error that means the same, such as FileNotFoundError or ConnectionError."""
    number, text, name = errors.errno_of(error), str(error), path or None
    if isinstance(error, errors.NetworkError) and not isinstance(error, errors.DeadlineExceeded):
        # EIO is what a mount has to say. Python has a kind for it, with the same errno.
        kind = ConnectionError
        if isinstance(error, errors.ConnectionRefused):
            kind = ConnectionRefusedError
        return kind(number, text, name)
    return OSError(number, text, name)  # Python chooses the kind by the errno


def missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no such file or folder", path)


def exists(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "there is such a file or folder already", path)


def is_folder(path: str) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, "is a folder", path)
