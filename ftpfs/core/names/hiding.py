"""Names that libfuse hides: each is deleted, unless a rename takes it over.

The problem: when a program deletes a file that is open, libfuse asks for a rename to a name
`.fuse_hidden*`. When a program renames another file over one that is open, libfuse asks for the
same rename first, and for the program's rename second. The two first requests look alike.

The obvious solution is to delete the name at once, as the first case needs it. In the second case
that loses the file if the server then refuses the rename.

What we do: the name is only noted here. If the program's rename comes, the same libfuse thread asks
for it as its next request, and the rename takes the name over. Otherwise the name is deleted within
milliseconds: as soon as that thread waits for the kernel's next request, or begins another one. Any
other use of the name deletes it first.

A time limit alone would decide wrongly. On a busy machine, or while the daemon is stopped, a thread
may ask for its rename seconds later. So the time limit counts only if the system does not show what
the thread waits for.

Owns the noted names, and the thread that deletes them. Does not know how a name is deleted, nor
which file it had.

Threading: any thread. `_changed` (Rank.HIDING) guards everything; nothing is deleted under it. A
name is deleted by one thread at a time, and not while a rename takes it over.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ftpfs import errors
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.model.status import PendingFile

log = logging.getLogger(__name__)

# How often a libfuse thread is looked at (seconds). Its two requests are within 0.1 ms.
LOOK_SECONDS = 0.001
# Without a usable /proc: the rename would have come within this time.
LONGEST_SECONDS = 0.5
# If /proc shows that the thread still works on its request: the longest wait (seconds).
HELD_UP_SECONDS = 10.0
# Pause before a failed deletion is tried again.
RETRY_SECONDS = 2.0
# The kernel's function in which a thread waits for the next request (/proc/*/wchan).
_WAITS_IN = "fuse_dev"
_TASKS = Path("/proc/self/task")


class Hidden:
    """A name to be deleted. The flags are guarded by `Hiding`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answered = False  # its libfuse thread has begun another request
        self.running = False  # a thread is deleting it
        self.done = False  # it was deleted, the server refused that, or a rename took it over
        self.try_at = 0.0  # do not try again earlier; time.monotonic()
        self.attempts = 0  # that failed
        self.error: errors.FtpfsError | None = None  # of the last of them
        self.since = time.time()
        self.thread = threading.get_native_id()
        self._since = time.monotonic()

    def is_over(self) -> bool:
        """Whether the thread's request is over, so that no rename follows."""
        if self.answered:
            return True
        where = _waits_in(self.thread)
        if where is None or where.startswith(_WAITS_IN):
            return True
        longest = HELD_UP_SECONDS if _is_held_up(where) else LONGEST_SECONDS
        return time.monotonic() - self._since > longest


def _waits_in(thread: int) -> str | None:
    """The kernel's function in which a thread of this process waits.

    "0" if the thread runs, or if the system does not tell; None if the thread has ended.
    """
    # /proc/*/syscall would tell, but a process that is not dumpable cannot read its own.
    task = _TASKS / str(thread)
    try:
        return (task / "wchan").read_text() or "0"
    except OSError:
        return None if _TASKS.exists() and not task.exists() else "0"


def _is_held_up(where: str) -> bool:
    """Whether the thread still works on its request: it runs, or waits for a lock."""
    return "futex" in where or (where == "0" and _system_tells())


@functools.cache
def _system_tells() -> bool:
    """Whether /proc tells in which function threads wait (some thread always waits)."""
    with contextlib.suppress(OSError):
        return any(_waits_in(int(each.name)) not in ("0", None) for each in _TASKS.iterdir())
    return False


class Hiding:
    """The names of one mount that are to be deleted, unless a rename takes them over."""

    def __init__(self, delete: Callable[[str], None]) -> None:
        """`delete(path)`: delete it on the server and here. On NetworkError it is tried again."""
        self._delete = delete
        self._changed = ranked_condition(Rank.HIDING)
        # Guarded by _changed:
        self._names: dict[str, Hidden] = {}
        # by thread id, until the thread begins another request
        self._latest: dict[int, Hidden] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def note(self, path: str) -> None:
        """Have `path` deleted, unless this thread asks for a rename over it next."""
        with self._changed:
            if self._closed:
                return
            hidden = self._names[path] = Hidden(path)
            self._latest[hidden.thread] = hidden
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="ftpfs-hidden-names", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def begin_request(self, replaced: str = "") -> None:
        """This thread begins a request of the kernel, or a step of one.

        `replaced`: the step is a rename over this name, so the name need not be deleted first.
        """
        if not self._latest:  # the usual case needs no lock
            return
        with self._changed:
            hidden = self._latest.pop(threading.get_native_id(), None)
            if hidden is None:
                return
            if hidden.path != replaced:
                hidden.answered = True
                return
            self._changed.wait_for(lambda: not hidden.running)
            self._done_locked(hidden)

    def waits(self, concerned: Callable[[str], bool]) -> bool:
        """Whether a noted name, for which `concerned` is true, waits to be deleted."""
        if not self._names:
            return False
        with self._changed:
            return any(concerned(path) for path in self._names)

    def wait_for(self, concerned: Callable[[str], bool]) -> None:
        """Return when no noted name waits for which `concerned` is true. Raises NetworkError."""
        if not self._names:  # the usual case needs no lock
            return
        ours = threading.get_native_id()
        with self._changed:
            found = [hidden for path, hidden in self._names.items() if concerned(path)]
        for hidden in found:
            while not (hidden.thread == ours or hidden.done or hidden.is_over()):
                time.sleep(LOOK_SECONDS)
            self._carry_out(hidden)

    def drain(self, concerned: Callable[[str], bool], timeout: float | None) -> bool:
        """As `wait_for`, but for at most `timeout` seconds (None: as long as it takes), and never
        for the network: the thread of this class deletes. False: it took too long. After `close`
        nothing is waited for."""
        if not self._names:
            return True
        self.begin_request()
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or not any(map(concerned, self._names)), timeout
            )

    def failed(self) -> tuple[PendingFile, ...]:
        """The deletions that were tried in vain and are tried again."""
        if not self._names:
            return ()
        with self._changed:
            return tuple(
                PendingFile(
                    path=hidden.path,
                    state="dirty",
                    size=0,
                    sent=0,
                    attempts=hidden.attempts,
                    error=errors.printable(f"not deleted yet: {hidden.error}"),
                    since=hidden.since,
                )
                for hidden in self._names.values()
                if hidden.error is not None
            )

    def close(self) -> None:
        """Delete the noted names; those that cannot be deleted now stay on the server."""
        with self._changed:
            self._closed = True
            left = list(self._names.values())
            self._changed.notify_all()
        away: errors.FtpfsError | None = None
        for hidden in left:
            try:
                if away is None:
                    self._carry_out(hidden)
            except errors.FtpfsError as error:
                away = error  # do not wait for the network once more for each name
            if away is not None:
                log.error("%s was deleted here, but is still on the server: %s", hidden.path, away)

    def _carry_out(self, hidden: Hidden) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not hidden.running)
            if hidden.done:
                return
            hidden.running = True
        done = False
        try:
            self._delete(hidden.path)
            done = True
        except errors.FtpfsError as error:
            with self._changed:
                hidden.attempts, hidden.error = hidden.attempts + 1, errors.again(error)
            raise
        finally:
            with self._changed:
                hidden.running = False
                hidden.try_at = time.monotonic() + RETRY_SECONDS
                self._changed.notify_all()
                if done:
                    self._done_locked(hidden)

    def _done_locked(self, hidden: Hidden) -> None:
        hidden.done = True
        if self._latest.get(hidden.thread) is hidden:
            del self._latest[hidden.thread]
        if self._names.get(hidden.path) is hidden:
            del self._names[hidden.path]
        self._changed.notify_all()

    def _run(self) -> None:
        """Delete names whose requests are over, until the mount ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._names or self._closed)
                if self._closed:
                    return
                now = time.monotonic()
                names = [hidden for hidden in self._names.values() if hidden.try_at <= now]
            for hidden in names:
                if hidden.is_over():
                    try:
                        self._carry_out(hidden)
                    except errors.FtpfsError as error:
                        log.warning("%s could not be deleted, trying again: %s", hidden.path, error)
                    except Exception:
                        log.exception("deleting %s failed: unexpected error", hidden.path)
            time.sleep(LOOK_SECONDS if names else RETRY_SECONDS / 10)
