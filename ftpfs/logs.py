"""Where log lines go: a file, the journal, or a terminal; and that they harm none of them.

Owns: the handlers and their formats. What is logged holds names and words of servers, so every line
is made printable, tracebacks included: nothing of it paints a terminal or forges another line.

Threading: called while the process has one thread.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import threading
from pathlib import Path

import platformdirs

from ftpfs import errors, systemd

log = logging.getLogger(__name__)

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def to_terminal(level: str) -> None:
    """For a command that is over soon: what goes wrong beside its own outcome. Does nothing where
    somebody logs already (whoever calls a command out of a program of theirs)."""
    if not logging.getLogger().handlers:
        _start(logging.StreamHandler(), level, "ftpfs: %(message)s")


def to_stderr(level: str) -> None:
    """For a mount in the foreground: the terminal, or systemd's journal."""
    # A copy of stderr: libfuse's own messages are caught on the original while mounting.
    stream = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    _start(handler, level)
    if systemd.stderr_is_journal():
        handler.setFormatter(systemd.JournalFormatter())  # it adds the time itself


def to_file(path: Path | None, level: str) -> None:
    """For a daemon. `path` None: where logs belong on this system, else syslog. Raises FtpfsError
    when a path that was asked for cannot be written."""
    place = path or platformdirs.user_log_path("ftpfs") / "ftpfs.log"
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Names of files are private, too.
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        handler: logging.Handler = _PrivateFile(place, encoding="utf-8")
    except OSError as error:
        if path:
            raise errors.FtpfsError(f"cannot log to {path}: {error.strerror}") from error
        handler = logging.handlers.SysLogHandler("/dev/log")
    _start(handler, level)


class _PrivateFile(logging.handlers.WatchedFileHandler):
    """A log that was rotated away is noticed, and begun anew, for its user alone."""

    def _open(self) -> io.TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding=self.encoding, opener=private)


def _start(handler: logging.Handler, level: str, form: str = _FORMAT) -> None:
    handler.setFormatter(logging.Formatter(form))
    handler.addFilter(_make_printable)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # fusepy logs every ENOENT with a traceback.
    logging.getLogger("fuse").setLevel(logging.CRITICAL)
    threading.excepthook = _note_end_of_thread


def _note_end_of_thread(end: threading.ExceptHookArgs) -> None:
    """Python tells it on stderr, which a daemon has let go of."""
    if end.exc_value is not None and not isinstance(end.exc_value, SystemExit):
        name = end.thread.name if end.thread else "?"
        log.critical(
            "the thread %s ended in a way nobody foresaw",
            name,
            exc_info=(end.exc_type, end.exc_value, end.exc_traceback),
        )


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = errors.printable(record.getMessage()), None
    if record.exc_info:
        # A formatter takes it from here instead of making it.
        record.exc_text = errors.printable_lines(
            logging.Formatter().formatException(record.exc_info)
        )
    return True
