"""The error classes and the table of their errnos.

Owns every exception class that ftpfs raises on purpose, the errno that each one means to a program,
and the first interpretation of an FTP reply code. Owns no policy: the pool decides about retries,
and `ftp.remote` finds out what an ambiguous 550 means.

A leaf: it imports nothing of ftpfs, so every layer may raise these. Only `fuse.operations` turns
them into an OSError, by `errno_of`.
"""

from __future__ import annotations

import errno


class FtpfsError(Exception):
    """An error that ftpfs understands. `errno` is what a program gets."""

    errno = errno.EIO


# Facts about the path.


class NotFound(FtpfsError):
    errno = errno.ENOENT


class StaleName(FtpfsError):
    """A name that the kernel believes in is gone.

    The kernel looks it up once more, and then creates the file, or reports to the program that
    there is none.
    """

    errno = errno.ESTALE


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


# What is not allowed, or not possible.


class PermissionDenied(FtpfsError):
    errno = errno.EACCES


class NotPermitted(FtpfsError):
    """FTP has no such feature, for any user (hard links, device nodes)."""

    errno = errno.EPERM


class ReadOnly(FtpfsError):
    errno = errno.EROFS


class CrossesFolders(FtpfsError):
    """The server takes names and no paths, so no rename can name two folders. Programs copy."""

    errno = errno.EXDEV


class NotSupported(FtpfsError):
    """The server has no such command. Never ENOSYS: the kernel would stop asking for good."""

    errno = errno.EOPNOTSUPP


class InvalidArgument(FtpfsError):
    errno = errno.EINVAL


class InvalidName(InvalidArgument):
    """A name that FTP cannot carry: it contains CR, LF or NUL. Nothing was sent."""


class NameTooLong(FtpfsError):
    errno = errno.ENAMETOOLONG


class BadHandle(FtpfsError):
    errno = errno.EBADF


class NoSpace(FtpfsError):
    errno = errno.ENOSPC


class OutOfDescriptors(FtpfsError):
    """This process, or the machine, has no descriptor left. Temporary."""

    errno = errno.EMFILE


class QuotaExceeded(FtpfsError):
    errno = errno.EDQUOT


# The network, and the server's manners.


class NetworkError(FtpfsError):
    """The server could not be reached, or the conversation broke. Never read as "no such file"."""

    # Whether the server may have received the failed command, and so may have carried it out.
    asked: bool = True


class UnknownHost(NetworkError):
    """The server's name has no address: mistyped, or the name service is not reachable."""


class ConnectionRefused(NetworkError):
    """No server listens on that port (now)."""


class ConnectionLost(NetworkError):
    """The control connection is gone (closed, reset, 421): the session cannot be used any more."""


class NoRoute(ConnectionLost):
    """This machine has no way to the server now: no network, or none that leads there."""


class NoGreeting(ConnectionLost):
    """The connection was closed before the server said a word.

    A forwarder, a proxy or a container's port does that while no server is behind it.
    """


class Offline(NetworkError):
    """The server is away, and what a program asks for is not on this machine. Nothing was asked."""

    errno = errno.ENETUNREACH
    asked = False


class Retreat(ConnectionLost):
    """The session is over, and ftpfs has learned what the server does not take.

    The next session does without it.
    """


class DataConnectionFailed(NetworkError):
    """The data connection could not be made or broke; the control connection is intact."""


class DeadlineExceeded(NetworkError):
    """A step took longer than its deadline. Its session cannot be trusted any more."""

    errno = errno.ETIMEDOUT


class ServerBusy(NetworkError):
    """421 or 530 at login: the server takes no further connection from us for now.

    Not EAGAIN: programs read that as "not ready yet", and retry at once, endlessly.
    """


class ProtocolError(FtpfsError):
    """The server sent something that is not FTP."""


class TooLong(ProtocolError):
    """A listing too large for this machine's memory, or a file of unknown size for its disk."""

    errno = errno.EFBIG


class FileTooLarge(FtpfsError):
    """A program gives a file a size that no server's disk has."""

    errno = errno.EFBIG


class TlsError(FtpfsError):
    """TLS failed or is required: certificate, version, or the server's own rule."""


class Untrusted(TlsError):
    """The server's certificate is not trusted; nothing was sent to the server."""


class LoginFailed(FtpfsError):
    errno = errno.EACCES


class DataMismatch(FtpfsError):
    """Bytes are missing, or there are too many: what arrived is not what was promised."""


class NotSentAgain(FtpfsError):
    """An upload that must not be repeated broke: the server may have taken the file."""


class Changed(DataMismatch):
    """The file on the server is not the one that was opened: another size or time."""


class Unsettled(FtpfsError):
    """A content is too young to be told from the next one, for `seconds` more."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Conflict(FtpfsError):
    """The file that an upload was to replace is not the expected one; nothing was changed.

    Another client changed it, or made one where there was none. ftpfs keeps both contents.
    """


class Superseded(FtpfsError):
    """A program has overwritten what a running upload sends: the upload ends and starts anew.

    Never reaches a program.
    """


# Refusals.


class Refused(FtpfsError):
    """The server refused a command with a final reply (4xx, 5xx) that has no class above.

    `code` is the three-digit reply code, `text` the server's text. A terminal must not get `text`
    as it is; `str()` of this error is printable already.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"server replied {code}: {printable(text)}")
        self.code = code
        self.text = text


class Unavailable(Refused):
    """450, 550 or 553: "no such file", "no permission", "is a directory", "not empty"...

    FTP has one code for all of them; `ftp.remote` asks the server to find out which it is.
    """


class Busy(Refused):
    """A program on the server has the file open, and the server (on Windows) refuses to touch it.

    Temporary.
    """

    errno = errno.EBUSY


class NotPrepared(FtpfsError):
    """A transfer did not begin, or was dropped, because a command sent ahead of it was refused.

    `refusal` is the error of that command. Not a Refused itself: it says nothing about the
    transfer.
    """

    def __init__(self, refusal: FtpfsError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def again(error: FtpfsError) -> FtpfsError:
    """A new, equal exception for another thread: two threads must not raise one object."""
    if isinstance(error, Refused):
        return type(error)(error.code, error.text)
    return type(error)(*error.args)


# Maximum characters of a reply in an error: a reply may have a megabyte, a log line may not.
MAX_QUOTED = 500

_NO_SPACE = 452  # RFC 959, 4.2: insufficient storage space in system
_QUOTA = 552  # RFC 959, 4.2: exceeded storage allocation
_TLS_CODES = {522, 533, 534, 535, 536}  # RFC 2228, 5 and RFC 4217: protection demanded or refused
_LOGIN_CODES = {331, 332, 430, 530, 532}
_UNKNOWN_COMMAND = {500, 502, 504}  # RFC 959, 4.2: unrecognised, not implemented, not for that
_BAD_PARAMETER = 501
_DATA_CODES = {425, 426}
_AMBIGUOUS = {450, 550, 553}
_MAY_BE_BUSY = {*_AMBIGUOUS, 451}


# Windows' ERROR_SHARING_VIOLATION and ERROR_LOCK_VIOLATION, as IIS, FileZilla Server and others
# report them; and ETXTBSY. No code says it: 450 ("file busy" in RFC 959) has many meanings.
_BUSY = (
    "used by another process",
    "locked a portion of the file",
    "sharing violation",
    "file is in use",
    "file in use",
    "file is locked",
    "text file busy",
    "resource busy",
)

# proftpd says 501 if a file belongs to another user.
_FORBIDDEN = ("permission denied", "operation not permitted")


def from_reply(code: int, text: str) -> FtpfsError:
    """The error that a refusing reply (4xx or 5xx) means.

    421 on a session in use means that the session is gone. At login, the session itself raises
    ServerBusy instead, because there 421 is about the server, not about the session.
    """
    text = shortened(text)
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
    if code in _MAY_BE_BUSY and any(phrase in text.lower() for phrase in _BUSY):
        return Busy(code, text)
    forbidden = any(phrase in text.lower() for phrase in _FORBIDDEN)
    if code == _BAD_PARAMETER and not forbidden:
        return InvalidArgument(message)
    if code in _AMBIGUOUS or forbidden:
        return Unavailable(code, text)
    return Refused(code, text)


def shortened(text: str) -> str:
    """The first part of a server's text, as much as an error quotes."""
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "..."


def printable(text: str) -> str:
    """`text` with all that a terminal might obey made visible (escapes, controls, bad bytes)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """`printable` for text of several lines; line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def errno_of(error: BaseException) -> int:
    """The errno for `error`, always positive.

    A plain OSError keeps its own errno, if it has one: TimeoutError() made by hand has errno None,
    and FUSE bindings return garbage for that. Unexpected exceptions are EIO.
    """
    if isinstance(error, FtpfsError):
        return error.errno
    if isinstance(error, TimeoutError) and not error.errno:
        return errno.ETIMEDOUT
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return error.errno
    return errno.EIO
