"""The keeper of a mount: looks at the kept paths when it is time, and when somebody asks for it.

Owns when to look. `store.kept` has the paths, `look` is one look. Mounts of one server share what
is kept, and only one of them looks at a time. The others find that it was done, and do nothing.

Nothing is done while the server is away. When it is back, the keeper is woken.

Threading: one thread, from `start` to `close`; any thread asks. `_changed` (Rank.KEEPER) guards
what is asked for.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ftpfs import errors
from ftpfs.core.keeping.look import Look, Outcome, Progress
from ftpfs.core.names.known import KnownNames
from ftpfs.core.store.kept import outermost
from ftpfs.core.store.store import Store
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.model.names import is_within
from ftpfs.model.remote import Remote
from ftpfs.model.status import Kept

log = logging.getLogger(__name__)

# How often a caller hears of the progress, and how often a mount looks whether another one still
# fetches (s).
TOLD_SECONDS, TURN_SECONDS = 0.25, 0.2
# How long `close` waits for transfers to end (s).
CLOSE_SECONDS = 2.0


class _Request:
    """Somebody waits for a look at `path` that begins at `since` or later."""

    def __init__(self, path: str, since: float) -> None:
        self.path = path
        self.since = since  # seconds since the epoch
        self.done = threading.Event()
        # Set before `done` is:
        self.outcome: Outcome | None = None
        self.error: errors.FtpfsError | None = None

    def end(self, outcome: Outcome | None, error: errors.FtpfsError | None = None) -> None:
        self.outcome, self.error = outcome, error
        self.done.set()


class Keeper:
    """Keeps the kept paths of one mount up to date."""

    def __init__(
        self,
        remote: Remote,
        known: KnownNames,
        store: Store,
        paths: Sequence[str] = (),
        *,
        refresh: float,
        workers: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`paths` are kept from the start on. `refresh`: seconds between two looks.

        `workers`: threads that fetch. `clock()` returns seconds since the epoch.
        """
        self._remote = remote
        self._known = known
        self._store = store
        self._paths = paths
        self._refresh = refresh
        self._workers = workers
        self._clock = clock
        # Of the thread: when it is to look again although something is lacking (time.monotonic()).
        self._again_at: dict[str, float] = {}
        self._changed = ranked_condition(Rank.KEEPER)
        # Guarded by _changed:
        self._requests: list[_Request] = []
        self._look: Look | None = None
        self._is_woken = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        for path in self._paths:
            try:
                self._store.kept.add(path)
            except errors.FtpfsError as error:
                log.error("%s is not kept: %s", path, error)
        self._thread = threading.Thread(target=self._run, name="ftpfs-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. The next mount goes on."""
        with self._changed:
            self._is_closed = True
            requests, self._requests = self._requests, []
            look = self._look
            self._changed.notify_all()
        for request in requests:
            request.end(None, _ended())
        if look is not None:
            look.stop()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def wake(self) -> None:
        """The server is back: look what is due."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    # What a user asks for.

    def add(self, path: str) -> None:
        """Keep a path from now on. Raises FtpfsError if that cannot be noted."""
        self._store.check_on()
        self._store.kept.add(path)

    def keep(self, path: str) -> Iterator[Progress | Outcome]:
        """Keep a path from now on, and look at it now. Yields the progress, and the outcome last.

        If the caller gives up, the look goes on. Raises FtpfsError.
        """
        self.add(path)
        request = _Request(path, self._clock())
        with self._changed:
            if self._is_closed:
                raise _ended()
            self._requests.append(request)
            self._changed.notify_all()
        while not request.done.wait(TOLD_SECONDS):
            with self._changed:
                look = self._look
            if look is not None and (is_within(path, look.root) or is_within(look.root, path)):
                yield look.progress()
            else:
                yield Progress()
        if request.error is not None:
            raise errors.again(request.error) from request.error
        if request.outcome is not None:
            yield request.outcome

    def drop(self, path: str) -> None:
        """Keep a path no longer. Its contents stay until others take their place.

        Raises NotFound if it is not kept by itself, and FtpfsError.
        """
        if not self._store.kept.drop(path):
            above = [each for each in self._store.kept.paths() if is_within(path, each)]
            why = f"it is kept with {above[0]}" if above else "it is not kept"
            raise errors.NotFound(f"{path}: {why}")
        self._store.release()

    def kept(self) -> list[Kept]:
        """All kept paths, and how they were found last."""
        return sorted(self._store.kept.all().values(), key=lambda kept: kept.path)

    # The thread.

    def _run(self) -> None:
        while self._wait():
            try:
                self._round()
            except Exception:
                log.exception("keeping failed: unexpected error")
                self._fail_all(errors.FtpfsError("internal error while keeping; see the log"))

    def _wait(self) -> bool:
        """Wait until something is due or asked for; False: the end."""
        pause = self._pause()
        with self._changed:
            if not (self._requests or self._is_woken or self._is_closed):
                self._changed.wait(pause)
            self._is_woken = False
            return not self._is_closed

    def _pause(self) -> float:
        """Seconds until a look is due."""
        if self._remote.is_offline():
            return self._refresh  # `wake` ends it
        return min([self._refresh, *map(self._seconds_to, self._kept_outermost())])

    def _seconds_to(self, kept: Kept) -> float:
        """Seconds until a look at that path is due; 0: now."""
        waits = self._again_at.get(kept.path, 0.0) - time.monotonic()
        since = self._clock() - kept.looked  # negative: somebody has set the clock back
        if kept.complete and 0 <= since < self._refresh:
            waits = max(waits, self._refresh - since)
        return max(0.0, waits)

    def _kept_outermost(self) -> list[Kept]:
        known = self._store.kept.all()
        return [known[path] for path in outermost(list(known))]

    def _round(self) -> None:
        with self._changed:
            requests, self._requests = self._requests, []
        for request in requests:
            if self._remote.is_offline():
                request.end(None, errors.Offline("the server is away: fetched when it is back"))
                continue
            try:
                outcome = self._look_at(request.path, request.since)
            except (errors.FtpfsError, OSError, sqlite3.Error) as error:
                request.end(None, errors.FtpfsError(str(error)))
            else:
                self._look_again_later(request.path, outcome)
                request.end(outcome)
        for kept in self._kept_outermost():
            if self._remote.is_offline():
                return
            if not self._seconds_to(kept):
                outcome = None
                try:
                    outcome = self._look_at(kept.path, self._clock() - self._refresh)
                except (errors.FtpfsError, OSError, sqlite3.Error) as error:
                    log.warning("%s is kept, but was not looked at: %s", kept.path, error)
                if not self._remote.is_offline():
                    self._look_again_later(kept.path, outcome)

    def _look_again_later(self, path: str, outcome: Outcome | None) -> None:
        pause = self._refresh
        if outcome is not None and outcome.unsettled:
            pause = min(pause, outcome.settles_in)
        self._again_at[path] = time.monotonic() + pause

    def _fail_all(self, error: errors.FtpfsError) -> None:
        with self._changed:
            requests, self._requests = self._requests, []
        for request in requests:
            request.end(None, error)

    def _look_at(self, path: str, since: float) -> Outcome | None:
        """Look at a path, unless another mount has done that at `since` or later."""
        while True:
            with self._store.kept.looking() as is_free:
                if is_free:
                    return self._look_alone(path, since)
            with self._changed:
                if self._is_closed:
                    raise _ended()
                self._changed.wait(TURN_SECONDS)

    def _look_alone(self, path: str, since: float) -> Outcome | None:
        known = self._store.kept.all().get(path)
        if known is None:
            raise errors.NotFound(f"{path}: it is not kept any more")
        now = self._clock()
        if known.complete and since <= known.looked <= now:
            return Outcome(files=known.files, bytes=known.bytes, complete=True)
        self._store.release()  # what a killed mount has left
        look = Look(
            path,
            self._remote,
            self._known,
            self._store,
            workers=self._workers,
            is_wanted=lambda: path in self._store.kept.all(),
        )
        with self._changed:
            if self._is_closed:
                raise _ended()
            self._look = look
        try:
            outcome = look.run()
        finally:
            with self._changed:
                self._look = None
        self._note(replace(known, looked=now), outcome)
        return outcome

    def _note(self, kept: Kept, outcome: Outcome) -> None:
        noted = replace(
            kept,
            complete=outcome.complete,
            files=outcome.files,
            bytes=outcome.bytes,
            lacking=outcome.lacking + outcome.unsettled,
            missing=outcome.missing,
        )
        self._store.kept.note(noted)
        if outcome.missing:
            log.warning("%s is kept, but the server has nothing there", kept.path)
        if outcome.fetched or noted.lacking:
            log.info(
                "%s is kept: %d files are here, %d of them fetched now; %d could not be fetched%s",
                *(kept.path, outcome.files, outcome.fetched, noted.lacking),
                f" ({': '.join(outcome.failures[0])})" if outcome.failures else "",
            )


def _ended() -> errors.FtpfsError:
    return errors.FtpfsError("the mount ends; the next one goes on")
