"""Logs: where log lines go (a file, the journal, a terminal), and how they are made harmless.

Owns the handlers and their formats, and the limits of a log. A log line holds names and texts that
servers chose. So every line is made printable, tracebacks included: no line can send control
characters to a terminal, or look like two lines.

A daemon runs for years, and a program that polls an unreachable server causes a line each time. So
the file has a size limit (`MAX_FILE_BYTES`; the previous file is kept), a line has a length limit,
and the same line is written once a minute (`Repeats`).

Threading: set up while the process has one thread. Handlers have a lock each, `Repeats` its own.
"""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import logging.handlers
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ftpfs import errors
from ftpfs.daemon import places, systemd

log = logging.getLogger(__name__)

# A larger log file is renamed to `ftpfs.log.1`, over the previous one.
MAX_FILE_BYTES = 10 << 20
MAX_MESSAGE = 4000  # characters of one line
# The same line is written once within this time.
REPEAT_SECONDS = 60.0
# Limit of lines within that time from one place in the code about one kind of error: they differ in
# a name only.
MAX_ALIKE = 200

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def to_terminal(level: str) -> None:
    """Log warnings and errors of a short command to stderr.

    Does nothing if a program that calls the command has set up logging already.
    """
    if not logging.getLogger().handlers:
        _start(logging.StreamHandler(), level, "ftpfs: %(message)s", daemon=False)


def to_stderr(level: str) -> None:
    """Log to stderr, for a mount in the foreground: a terminal, or systemd's journal."""
    # A copy of stderr: libfuse's own messages are caught on the original while mounting.
    stream = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    _start(handler, level)
    if systemd.stderr_is_journal():
        handler.setFormatter(systemd.JournalFormatter())  # the journal adds the time itself


def to_file(path: Path | None, level: str) -> None:
    """Log to a file, for a daemon. `path` None: the user's log folder, or else syslog.

    Raises FtpfsError if the user named a file that cannot be written.
    """
    try:
        place = path or places.log() / "ftpfs.log"
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.is_symlink() and place.lstat().st_uid not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, "a symbolic link of another user")
        # Names of files are private, too.
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        handler: logging.Handler = _PrivateFile(place, encoding="utf-8")
    except (OSError, errors.FtpfsError) as error:
        if path:
            why = error.strerror if isinstance(error, OSError) else error
            raise errors.FtpfsError(f"cannot log to {path}: {why}") from error
        handler = logging.handlers.SysLogHandler("/dev/log")
    _start(handler, level)


class _PrivateFile(logging.handlers.WatchedFileHandler):
    """A log file that only its user can read, and that is renamed when it is large.

    Several mounts may write to one file. One of them, which holds the file's lock, renames it; the
    others notice that, and begin a new file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        # If the log's folder is gone, the line is lost. The caller must not get an error for that:
        # it may be the thread that waits for signals.
        try:
            super().emit(record)
            if self.stream is not None and self.stream.tell() > MAX_FILE_BYTES:
                self._rotate(self.stream)
        except OSError:
            self.handleError(record)

    def _rotate(self, stream: io.TextIOWrapper) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            ours, there = os.fstat(stream.fileno()), os.stat(self.baseFilename)
            if os.path.samestat(ours, there):  # else another process has renamed it
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)
        self.reopenIfNeeded()

    def _open(self) -> io.TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding=self.encoding, opener=private)


class Repeats:
    """A filter of a daemon's log that drops repeated lines.

    It passes the same line once a minute, and at most MAX_ALIKE different lines from one place in
    the code about one kind of error: a program that polls an unreachable server hides no refusal.
    The next line that it passes tells how many were dropped. Debug lines always pass: a user who
    asks for them wants all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by _lock: the lines that passed since _since, and their number for each source.
        self._since = clock()
        self._lines: set[tuple[int, str]] = set()
        self._sources: Counter[tuple[object, ...]] = Counter()
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return True
        line = record.levelno, record.getMessage()[:MAX_MESSAGE]
        source = _source(record)
        with self._lock:
            if self._clock() - self._since >= REPEAT_SECONDS:
                self._lines.clear()
                self._sources.clear()
                self._since = self._clock()
            if line in self._lines or self._sources[source] >= MAX_ALIKE:
                self._left_out += 1
                return False
            self._lines.add(line)
            self._sources[source] += 1
            left_out, self._left_out = self._left_out, 0
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} repeated lines were left out before)"
            record.args = None
        return True


def _source(record: logging.LogRecord) -> tuple[object, ...]:
    """The place in the code that wrote a line, and the classes of the errors that it tells."""
    told = record.args if isinstance(record.args, tuple) else ()
    kinds = (type(each) for each in told if isinstance(each, BaseException))
    return record.pathname, record.lineno, *kinds


def _start(
    handler: logging.Handler, level: str, form: str = _FORMAT, *, daemon: bool = True
) -> None:
    handler.setFormatter(logging.Formatter(form))
    if daemon and level.upper() != "DEBUG":
        handler.addFilter(Repeats())
    handler.addFilter(_make_printable)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # fusepy logs every ENOENT with a traceback.
    logging.getLogger("fuse").setLevel(logging.CRITICAL)
    threading.excepthook = _note_end_of_thread


def _note_end_of_thread(end: threading.ExceptHookArgs) -> None:
    """Log that a thread died. Python writes that to stderr, which a daemon has closed."""
    if end.exc_value is not None and not isinstance(end.exc_value, SystemExit):
        name = end.thread.name if end.thread else "?"
        log.critical(
            "the thread %s died: unexpected error",
            name,
            exc_info=(end.exc_type, end.exc_value, end.exc_traceback),
        )


def _make_printable(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}... ({len(message)} characters)"
    record.msg, record.args = errors.printable(message), None
    if record.exc_info:
        # A formatter uses this text instead of making its own.
        record.exc_text = errors.printable_lines(
            logging.Formatter().formatException(record.exc_info)
        )
    return True
