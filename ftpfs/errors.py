"""The error hierarchy and THE errno table.

Owns: every exception class that ftpfs raises on purpose, the errno each one means to an
application, and the first reading of an FTP reply code. Owns no policy: who retries is the
pool's affair, who settles an ambiguous 550 is `ftp.remote`'s.

A leaf: it imports nothing of ftpfs, so every layer may raise these. Only `fuse.operations` turns
them into an OSError, through `errno_of`.
"""

from __future__ import annotations

import errno


class FtpfsError(Exception):
    """Something went wrong that ftpfs understands. `errno` is what an application gets to see."""

    errno = errno.EIO


# What the path is, or is not.


class NotFound(FtpfsError):
    errno = errno.ENOENT


class Exists(FtpfsError):
    errno = errno.EEXIST


class NotADirectory(FtpfsError):
    errno = errno.ENOTDIR


class IsADirectory(FtpfsError):
    errno = errno.EISDIR


class NotEmpty(FtpfsError):
    errno = errno.ENOTEMPTY


class LinkLoop(FtpfsError):
    errno = errno.ELOOP


# What may not be done, or cannot be.


class PermissionDenied(FtpfsError):
    errno = errno.EACCES


class NotPermitted(FtpfsError):
    """FTP has no such thing, whoever asks (hard links, device nodes)."""

    errno = errno.EPERM


class ReadOnly(FtpfsError):
    errno = errno.EROFS


class NotSupported(FtpfsError):
    """The server has no such command. Never ENOSYS: the kernel would stop asking for good."""

    errno = errno.EOPNOTSUPP


class InvalidArgument(FtpfsError):
    errno = errno.EINVAL


class InvalidName(InvalidArgument):
    """A name that FTP cannot carry: CR, LF or NUL in it. Nothing was sent."""


class NameTooLong(FtpfsError):
    errno = errno.ENAMETOOLONG


class BadHandle(FtpfsError):
    errno = errno.EBADF


class NoSpace(FtpfsError):
    errno = errno.ENOSPC


class QuotaExceeded(FtpfsError):
    errno = errno.EDQUOT


# The network, and the server's manners.


class NetworkError(FtpfsError):
    """The server could not be reached or the conversation broke. Never read as "no such file"."""

    # Whether the server may have been asked for what failed, and so may have done it.
    asked: bool = True


class UnknownHost(NetworkError):
    """No address for the server's name: mistyped, or the name service is away."""


class ConnectionRefused(NetworkError):
    """Nobody listens there (now)."""


class ConnectionLost(NetworkError):
    """The control connection is gone (closed, reset, 421): this session is of no more use."""


class DataConnectionFailed(NetworkError):
    """The data connection could not be made or broke off; the control connection lives."""


class DeadlineExceeded(NetworkError):
    """A step took longer than its deadline. The session it happened on is not to be trusted."""

    errno = errno.ETIMEDOUT


class ServerBusy(NetworkError):
    """421 or 530 at login: the server takes no further connection from us for now.

    Not EAGAIN: programs read that as "not ready yet" and try again at once, for ever.
    """


class ProtocolError(FtpfsError):
    """The server said something that is not FTP."""


class TlsError(FtpfsError):
    """TLS failed or is demanded: certificate, version, or the server's own rule."""


class LoginFailed(FtpfsError):
    errno = errno.EACCES


class DataMismatch(FtpfsError):
    """Bytes are missing, or there are too many: what arrived is not what was promised."""


class Changed(DataMismatch):
    """The file on the server is not the one it was when it was opened: another size or time."""


class Conflict(FtpfsError):
    """The file that an upload was to replace is not the one it was based on; nothing was changed.

    Somebody else changed it, or made one where there was none. Both contents are to be kept.
    """


class Superseded(FtpfsError):
    """An upload under way sends what has been written over since: it is given up and begun anew.

    Never reaches an application.
    """


# Replies that refuse.


class Refused(FtpfsError):
    """The server refused a command with a final reply (4xx, 5xx) that is none of the above.

    `code` is the three-digit reply, `text` what came with it (server text: not to be trusted with
    a terminal; `str()` of this error is already made printable).
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"server replied {code}: {printable(text)}")
        self.code = code
        self.text = text


class Unavailable(Refused):
    """450, 550 or 553: "no such file", "no permission", "is a directory", "not empty"...

    FTP has one code for all of them; `ftp.remote` settles which by looking.
    """


class NotPrepared(FtpfsError):
    """A transfer was not begun, or dropped, for a command sent ahead of it was refused.

    `refusal` is what that refusal means. No Refused itself: it says nothing about the transfer.
    """

    def __init__(self, refusal: FtpfsError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def again(error: FtpfsError) -> FtpfsError:
    """A fresh, equal exception for another thread: one object must not be raised in two."""
    if isinstance(error, Refused):
        return type(error)(error.code, error.text)
    return type(error)(*error.args)


_NO_SPACE = 452  # RFC 959, 4.2: insufficient storage space in system
_QUOTA = 552  # RFC 959, 4.2: exceeded storage allocation
_TLS_CODES = {522, 533, 534, 535, 536}  # RFC 2228, 5 and RFC 4217: protection demanded or refused
_LOGIN_CODES = {331, 332, 430, 530, 532}
_UNKNOWN_COMMAND = {500, 502, 504}  # RFC 959, 4.2: unrecognised, not implemented, not for that
_BAD_PARAMETER = 501
_DATA_CODES = {425, 426}
_AMBIGUOUS = {450, 550, 553}


def from_reply(code: int, text: str) -> FtpfsError:
    """The error that a refusing reply (4xx or 5xx) means.

    421 on a session already in use means that session is gone; at login the session itself
    raises ServerBusy instead, because there it speaks of the server, not of the session.
    """
    message = f"server replied {code}: {printable(text)}"
    if code == 421:
        return ConnectionLost(message)
    if code in _DATA_CODES:
        return DataConnectionFailed(message)
    if code == _NO_SPACE:
        return NoSpace(message)
    if code == _QUOTA:
        return QuotaExceeded(message)
    if code in _TLS_CODES:
        return TlsError(message)
    if code in _LOGIN_CODES:
        return LoginFailed(message)
    if code in _UNKNOWN_COMMAND:
        return NotSupported(message)
    if code == _BAD_PARAMETER:
        return InvalidArgument(message)
    if code in _AMBIGUOUS:
        return Unavailable(code, text)
    return Refused(code, text)


def printable(text: str) -> str:
    """`text` with everything a terminal might obey made visible (escapes, controls, bad bytes)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """`printable` for text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def errno_of(error: BaseException) -> int:
    """The errno for `error`, always a positive one.

    A plain OSError keeps its own, unless it has none: TimeoutError() made by hand has errno None,
    and FUSE bindings return garbage for that. What nobody foresaw is EIO.
    """
    if isinstance(error, FtpfsError):
        return error.errno
    if isinstance(error, TimeoutError) and not error.errno:
        return errno.ETIMEDOUT
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return error.errno
    return errno.EIO
