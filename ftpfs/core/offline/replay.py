"""Replay: carries out the steps that wait, in their order, when the server is back.

Owns what is looked at before each step, and what the looks mean. `waiting` keeps the steps.

**The problem.** A step was decided on what the server told last. Meanwhile others may have changed,
deleted or made the same names. This process, or one before it, may have been killed, or its
connection cut, after the server did the step and before that was noted.

**The obvious solution** is to note that a step is about to be sent, and to send it without a look.

**Why that fails.** A note does not tell whether the server did it. A second DELE deletes what
somebody else has put there meanwhile.

**What we do.** What a step finds tells all:

    step      finds                                          then
    --------  ---------------------------------------------  -----------------------------------
    MKDIR     nothing                                        the folder is made
              a folder                                       done: by us, or by others likewise
              anything else                                  refused
    RMDIR     nothing                                        done
              a folder                                       deleted; refused if it is not empty
              anything else                                  refused
    REMOVE    nothing                                        done
              what was known, or left by an upload of ours   deleted
              anything else, and nothing was known           done: it is not ours
              anything else                                  refused
    RENAME    no source; a folder at the target, or the      done
              file that was known as the source
              no source otherwise                            refused
              a source of another kind                       refused
              a source; no target                            renamed
              a source; the target that was known, or left   the target is deleted, then renamed
              by an upload of ours
              a source; another target                       refused: both stay as they are

A file is *what was known* if kind, size and time are the same, as exactly as both are told. A
source that others changed is renamed with their content, as any rename would do.

A refused step leaves names that are not what its user believes. So later steps at these names, or
below them, are refused, too; all others go on. A refusal that may be temporary is tried again.

Folders are made and deleted without a look before: MKD never replaces anything, and RMD deletes no
name of others. A file is looked at by SIZE and MDTM or MLST, one round trip. That a new name is
free is told by a listing of at most five seconds before. FTP has no conditional command: others may
act between the look and the command.

Threading: one thread at a time calls `run` (`_running`, without waiting).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from ftpfs import errors
from ftpfs.core.offline.steps import Act, Step
from ftpfs.core.offline.waiting import Waiting
from ftpfs.core.store.listings import MINUTE_SECONDS, is_same
from ftpfs.model.entry import Entry, Kind
from ftpfs.model.names import is_hidden, is_within, split
from ftpfs.model.remote import Remote

log = logging.getLogger(__name__)

# How often a step is tried that the server refuses for now (4xx, a file in use).
TRIES = 4
# A listing tells that a name is free for so long (seconds): as long as a mount believes names.
LISTED_SECONDS = 5.0


class _Listed:
    """Which names the server's folders have: a listing counts for LISTED_SECONDS, with our changes.

    So twenty files that are renamed into one folder cost one listing of it. Only the absence of a
    name is believed.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._folders: dict[str, tuple[float, set[str]]] = {}

    def has(self, path: str) -> bool:
        """Whether the server has such a name; also if it does not let us list the folder."""
        above, name = split(path)
        now = time.monotonic()
        since, names = self._folders.get(above, (float("-inf"), set()))
        if now - since >= LISTED_SECONDS:
            try:
                names = {entry.name for entry in self._remote.list(above)}
            except errors.PermissionDenied:
                return True
            except (errors.NotFound, errors.NotADirectory):
                return False
            self._folders[above] = now, names
        return name in names

    def changed(self, *paths: str) -> None:
        """We have made, deleted or renamed these names."""
        for path in paths:
            above, name = split(path)
            if above in self._folders:
                self._folders[above][1].add(name)
            for folder in [each for each in self._folders if is_within(each, path)]:
                del self._folders[folder]


class Replay:
    """Carries out the steps of one mount."""

    def __init__(self, remote: Remote, waiting: Waiting) -> None:
        """`remote`: the server itself."""
        self._remote = remote
        self._waiting = waiting
        self._running = threading.Lock()
        self._tries: dict[int, int] = {}  # by number of the step; guarded by _running
        self._ended = threading.Event()
        self._listed = _Listed(remote)  # guarded by _running
        self.why = "it is being tried"  # why the last step could not be done for now

    def run(self) -> bool:
        """Carry out what waits. True: nothing waits, and the server counts as here from now on.

        False: the server is away again, or does not do a step for now.
        """
        if not self._running.acquire(blocking=False):
            return False
        try:
            count = 0
            while not self._waiting.finish():
                for step in self._waiting.waiting():
                    if self._ended.is_set() or not self._carry_out(step):
                        return False
                    count += 1
            if count:
                log.warning("changes of names that waited for the server are done: %d", count)
            return True
        finally:
            self._running.release()

    def close(self) -> None:
        """Begin no step any more."""
        self._ended.set()

    def _carry_out(self, step: Step) -> bool:
        """Do a step, and settle it. False: it has to be tried later."""
        refused = self._follows_refused(step)
        if refused is None:
            try:
                refused = self._done(step)
            except (errors.NetworkError, errors.LoginFailed, errors.TlsError) as error:
                log.debug("%s: %s waits: %s", step.path, step.words, error)
                self.why = str(error)
                return False
            except errors.FtpfsError as error:
                if self._is_tried_again(step, error):
                    self.why = str(error)
                    return False
                refused = str(error)
            except Exception as error:  # a fault here must not hold up the other steps
                log.exception("%s: %s: unexpected error", step.path, step.words)
                refused = f"{type(error).__name__}: {error}"
        if refused is not None:
            log.error(
                "while the server was away: %s: %s: not done: %s", step.path, step.words, refused
            )
        self._waiting.settle(step, refused)
        self._tries.pop(step.number, None)
        return True

    def _follows_refused(self, step: Step) -> str | None:
        for refused in self._waiting.refused:
            if any(is_within(name, refused) for name in step.names):
                return f"an earlier change of {refused} was not done"
        return None

    def _is_tried_again(self, step: Step, error: errors.FtpfsError) -> bool:
        if not isinstance(
            error, (errors.Busy, errors.ProtocolError, errors.OutOfDescriptors)
        ) and not (isinstance(error, errors.Refused) and 400 <= error.code < 500):
            return False
        tries = self._tries[step.number] = self._tries.get(step.number, 0) + 1
        return tries < TRIES

    def _done(self, step: Step) -> str | None:
        """Look, and do the step if need be. Returns why it is refused, if so. Raises what the
        server says."""
        if step.act is Act.MKDIR:
            return self._mkdir(step)
        if step.act is Act.RMDIR:
            return self._rmdir(step)
        if step.act is Act.REMOVE:
            return self._remove(step)
        if step.act is Act.RENAME:
            return self._rename(step)
        return self._set(step)

    def _mkdir(self, step: Step) -> str | None:
        try:
            self._remote.mkdir(step.path, before=step.attributes)
        except errors.NetworkError:
            raise
        except errors.FtpfsError:
            seen = self._look(step.path, None)
            if seen is None:
                raise
            if seen.kind is not Kind.DIRECTORY:
                return "somebody else has made a file of this name"
        self._listed.changed(step.path)
        return None

    def _rmdir(self, step: Step) -> str | None:
        try:
            self._remote.rmdir(step.path)
        except errors.NetworkError:
            raise
        except errors.FtpfsError:
            seen = self._look(step.path, None)
            if seen is not None and seen.kind is not Kind.DIRECTORY:
                return "somebody else has put a file in its place"
            if seen is not None:
                raise
        self._listed.changed(step.path)
        return None

    def _remove(self, step: Step) -> str | None:
        seen = self._look(step.path, step.known or _trace_of(step))
        if seen is None:
            pass
        elif self._is_same(step.known, seen) or self._is_left(step, seen):
            with contextlib.suppress(errors.NotFound):
                self._remote.remove(step.path)
        elif step.known is not None:
            return "somebody else has changed it meanwhile"
        self._listed.changed(step.path)
        return None

    def _rename(self, step: Step) -> str | None:
        known = step.known
        source = self._look(step.path, known)
        is_other = source is None or not self._is_same(known, source)
        if is_other or is_hidden(step.new) or self._listed.has(step.new):
            target = self._look(step.new, step.replaced or known)
        else:
            target = None
        if is_other and target is not None and self._is_same(known, target):
            self._listed.changed(step.path, step.new)
            return None  # it is done already; perhaps somebody has made the old name again
        if source is None:
            return "somebody else has deleted or renamed it meanwhile"
        if known is not None and source.kind is not known.kind:
            return "somebody else has put something else in its place"
        if target is not None:
            if not (self._is_same(step.replaced, target) or self._is_left(step, target)):
                return f"somebody else has made or changed {step.new} meanwhile"
            if target.kind is Kind.DIRECTORY:
                self._remote.rmdir(step.new)
                target = None
            elif self._remote.replaces() is False:
                self._remote.remove(step.new)
                target = None
        self._remote.rename(step.path, step.new, replace=target is not None)
        self._listed.changed(step.path, step.new)
        return None

    def _set(self, step: Step) -> str | None:
        if step.attributes is None:
            return None
        _, mode, mtime = step.attributes
        seen = self._look(step.path, None)
        if seen is None:
            return "somebody else has deleted or renamed it meanwhile"
        if seen.kind is Kind.DIRECTORY:
            # Many servers set no times of folders. No program hears of that online either.
            for path, why in self._remote.set_on_folders([step.attributes]):
                log.warning("mode or time of %s was not set: %s", path, why)
        else:
            if mode is not None:
                self._remote.chmod(step.path, mode)
            if mtime is not None:
                self._remote.set_mtime(step.path, mtime)
        return None

    def _look(self, path: str, known: Entry | None) -> Entry | None:
        """What the server has at `path` now, as exactly as `known` is known."""
        try:
            if known is not None and known.kind is Kind.LINK:  # a look at it may show its target
                above, name = split(path)
                return next((e for e in self._remote.list(above) if e.name == name), None)
            if known is not None and known.kind is Kind.FILE:
                return self._remote.look_again(path, known)  # no listing
            return self._remote.stat(path)
        except (errors.NotFound, errors.NotADirectory):
            return None

    def _is_left(self, step: Step, seen: Entry) -> bool:
        """Whether an upload of ours, whose reply was lost, has left that."""
        return seen.exact and any(
            seen.size == size
            and seen.mtime is not None
            and mtime is not None
            and self._remote.is_same_time(seen.mtime, mtime)
            for size, mtime in step.traces
        )

    def _is_same(self, known: Entry | None, seen: Entry) -> bool:
        """Whether the server has what was known."""
        if known is None or known.kind is not seen.kind:
            return False
        if known.kind is not Kind.FILE:
            return True
        if known.size != seen.size:
            return False
        if known.mtime is None or seen.mtime is None:
            return known.mtime is seen.mtime
        if known.exact and seen.exact:
            return self._remote.is_same_time(seen.mtime, known.mtime)
        if known.exact != seen.exact:
            exact, listed = (known, seen) if known.exact else (seen, known)
            return is_same(exact, listed, time.time())
        return abs(known.mtime - seen.mtime) < MINUTE_SECONDS


def _trace_of(step: Step) -> Entry | None:
    """A file as one of the uploads may have left it: to be looked at as exactly."""
    name = split(step.path)[1]
    return next((Entry(name, Kind.FILE, *trace, exact=True) for trace in step.traces), None)
