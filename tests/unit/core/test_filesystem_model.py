"""Random operations on the file system against a model that is a dict of bytes.

The remote now and then loses a call, before or after carrying it out. Then the operation may fail
with NetworkError, and the model takes whichever outcome the server shows; bytes read are never
wrong, and at the end the server holds what the model holds. Now and then the file system is killed,
and lives on from a copy of its spool: what was closed is there then, byte for byte.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ftpfs import errors
from ftpfs.core.files.changes import WORTH_PATCHING
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names import intents
from ftpfs.core.reading.blocks import BLOCK_SIZE
from ftpfs.core.writing.spool import Spool, SpoolFile
from ftpfs.model.entry import Kind
from ftpfs.model.remote import Remote
from ftpfs.settings.config import Cache
from tests.support.memory_remote import Gate, MemoryRemote
from tests.support.waiting import until_gone

NAMES = ["a", "b"]
DIRECTORIES = ["/", "/d", "/d/f"]
PATHS = [posixpath.join(d, n) for d in DIRECTORIES for n in NAMES] + DIRECTORIES[1:]

HIDDEN = "/.ftpfs-deleted-"

# Around the limits: nothing, a little, a block and one more, several blocks.
SIZES = [0, 1, 10, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE + 5]
FAULTS = [
    "open_read",
    "store",
    "append",
    "rename",
    "remove",
    "mkdir",
    "rmdir",
    "list",
    "look_again",
]

paths = st.sampled_from(PATHS)
sizes = st.sampled_from(SIZES)
# Which of the open handles. Not drawn from them, and no rule has a precondition that looks at them:
# whether an open met a fault or a thread in the background did is chance, and what hypothesis
# generates must be the same each time that it runs an example.
whose = st.integers(0, 9)
modes = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])


def pattern(seed: int, size: int) -> bytes:
    """Bytes that no other seed has at the same places."""
    return bytes((seed + i) % 251 for i in range(min(size, 251))) * (size // 251 + 1)


class Life:
    """The remote of one life of the file system. After a kill it answers no call."""

    def __init__(self, remote: MemoryRemote) -> None:
        self.dead = False
        self._remote = remote
        self._lock = threading.Lock()
        self._under_way = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._remote, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._check()
                self._under_way += 1
            try:
                answer = method(*args, **kwargs)
            finally:
                with self._lock:
                    self._under_way -= 1
            self._check()
            return answer

        return call

    def _check(self) -> None:
        if self.dead:
            raise errors.ConnectionLost("killed")

    def kill(self) -> None:
        """Answer no call from here on. Calls under way are carried out."""
        self.dead = True
        until_gone(lambda: self._under_way)


class Disk:
    """The disk under one life's spool.

    While it is `still`, a copy of it is what a kill would leave: everything that any thread did
    before one moment, and nothing later.
    """

    def __init__(self, spool: Spool) -> None:
        self.still = threading.RLock()
        self._order(spool.journal, "put", "remove", "note_error", "intend", "rename", "withdraw")
        self._order(spool, "open", "reopen", "keep")

    def _order(self, thing: object, *steps: str) -> None:
        """Make these methods of `thing` wait while the disk is still."""
        for name in steps:
            setattr(thing, name, self._one_at_a_time(getattr(thing, name)))

    def _one_at_a_time(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def ordered(*args: Any, **kwargs: Any) -> Any:
            with self.still:
                result = step(*args, **kwargs)
                if isinstance(result, SpoolFile):
                    self._order(result, "write", "truncate", "save", "close")
                return result

        return ordered


class File:
    """A file of the model: all handles on it share this object, whatever its name is."""

    def __init__(self, content: bytes = b"", *, saved: bool = True) -> None:
        self.content = bytearray(content)
        self.saved = saved  # closed since it was written to: it outlives a crash as it is
        self.writers: set[int] = set()  # open handles that have changed it
        self.finished = {content}  # what there was when no writer had it open, or was asked for

    def finish(self) -> None:
        self.finished.add(bytes(self.content))

    def write(self, offset: int, data: bytes) -> None:
        self.saved = False
        if offset > len(self.content):
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.saved = False
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))


class Model(RuleBasedStateMachine):
    options = Cache(list_ttl=0, open_ttl=0)  # so that the server is asked at each step
    faulty = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.remote = MemoryRemote()
        self.tree: dict[str, File | None] = {}  # None: a directory
        self.handles: dict[int, File] = {}
        self.writable: set[int] = set()
        self.seed = 0
        self.lives = 0
        self.passed = 0.0  # seconds, besides those that did pass
        self.live()

    def live(self) -> None:
        self.life = Life(self.remote)
        spool = Spool(self.spool_folder())
        self.disk = Disk(spool)
        self.fs = Filesystem(
            cast(Remote, self.life),
            spool,
            self.options,
            clock=lambda: time.monotonic() + self.passed,
        )
        self.fs.recover()

    def spool_folder(self) -> Path:
        return Path(self.folder.name) / f"spool{self.lives}"

    def handle(self, which: int) -> int | None:
        """One of those that are open."""
        handles = sorted(self.handles)
        return handles[which % len(handles)] if handles else None

    @initialize(size=sizes)
    def a_server_with_something_on_it(self, size: int) -> None:
        self.tree = {"/d": None, "/d/f": None}
        for path in self.tree:
            self.remote.outside_mkdir(path)
        for seed, path in enumerate(("/a", "/d/a", "/d/f/b")):
            content = pattern(seed, size)[:size]
            # The same time and size for all: nothing but the name tells them apart.
            self.remote.outside_write(path, content)
            self.tree[path] = File(content)

    # What is allowed, as POSIX says it.

    def parent_is_there(self, path: str) -> bool:
        parent = posixpath.dirname(path)
        return parent == "/" or (parent in self.tree and self.tree[parent] is None)

    def has_children(self, path: str) -> bool:
        return any(p.startswith(path + "/") for p in self.tree)

    def attempt(
        self,
        operation: Callable[[], Any],
        expected: type[errors.FtpfsError] | tuple[type[errors.FtpfsError], ...] | None,
    ) -> tuple[bool, Any]:
        """Whether it went well, and the result. It must fail as `expected`, or by the network."""
        try:
            result = operation()
        except errors.NetworkError:
            return False, None
        except errors.FtpfsError as error:
            if expected is None or not isinstance(error, expected):
                raise
            return False, None
        assert expected is None, f"should have failed with {expected}"
        return True, result

    # Faults.

    @precondition(lambda self: self.faulty)
    @rule(method=st.sampled_from(FAULTS), after=st.integers(0, 1))
    def the_network_will_fail(self, method: str, after: int) -> None:
        self.remote.fail(method, errors.DeadlineExceeded("ordered"), after=after)

    @precondition(lambda self: self.faulty)
    @rule(method=st.sampled_from(["store", "append", "mkdir", "rmdir", "list"]))
    def an_answer_will_be_lost(self, method: str) -> None:
        self.remote.fail(method, errors.DeadlineExceeded("ordered"), too_late=True)

    @precondition(lambda self: self.faulty)
    @rule(size=st.sampled_from([0, 1, 70_000, 200_000]))
    def the_next_download_will_break_off(self, size: int) -> None:
        self.remote.cut_downloads(size)

    # Files.

    @rule(path=paths, flags=modes)
    def open(self, path: str, flags: int) -> None:
        expected: type[errors.FtpfsError] | tuple[type[errors.FtpfsError], ...] | None = None
        if path in self.tree and self.tree[path] is None:
            expected = errors.IsADirectory
        elif path not in self.tree:
            expected = (errors.NotFound, errors.NotADirectory)
        done, handle = self.attempt(lambda: self.fs.open(path, flags), expected)
        if done:
            file = self.tree[path]
            assert file is not None
            self.handles[handle] = file
            if flags != os.O_RDONLY:
                self.writable.add(handle)
            if flags & os.O_TRUNC:
                file.truncate(0)
                file.writers.add(handle)

    @rule(path=paths)
    def create(self, path: str) -> None:
        # The kernel looks first, and locks the parent: it creates only where nothing is.
        if path in self.tree or not self.parent_is_there(path):
            return
        done, handle = self.attempt(lambda: self.fs.create(path, 0o644, os.O_RDWR), None)
        if done:
            self.tree[path] = self.handles[handle] = file = File(saved=False)
            self.writable.add(handle)
            file.writers.add(handle)
            file.finished.clear()

    @rule(which=whose, offset=sizes, size=sizes)
    def read(self, which: int, offset: int, size: int) -> None:
        if (handle := self.handle(which)) is None:
            return
        done, content = self.attempt(lambda: self.fs.read(handle, offset, size), None)
        if done:
            assert content == bytes(self.handles[handle].content[offset : offset + size])

    @rule(which=whose, offset=sizes, size=sizes)
    def write(self, which: int, offset: int, size: int) -> None:
        if (handle := self.handle(which)) is None:
            return
        if not size:
            return
        self.seed += 1
        written = pattern(self.seed, size)[:size]
        done, count = self.attempt(lambda: self.fs.write(handle, offset, written), None)
        assert done
        assert count == size
        self.handles[handle].write(offset, written)
        self.handles[handle].writers.add(handle)

    @rule(which=whose, size=sizes)
    def truncate_handle(self, which: int, size: int) -> None:
        if (handle := self.handle(which)) is None:
            return
        self.fs.truncate_handle(handle, size)
        self.handles[handle].truncate(size)
        self.handles[handle].writers.add(handle)

    @rule(which=whose)
    def flush(self, which: int) -> None:
        if (handle := self.handle(which)) is not None:
            self.settle(handle)

    @rule(which=whose)
    def fsync(self, which: int) -> None:
        if (handle := self.handle(which)) is None:
            return
        file = self.handles[handle]
        file.finish()
        done, _ = self.attempt(lambda: self.fs.fsync(handle), None)
        file.saved = True
        for path, other in self.tree.items():
            if done and other is file:
                assert self.remote.content(path) == bytes(file.content)

    @rule(which=whose)
    def close(self, which: int) -> None:
        if (handle := self.handle(which)) is None:
            return
        self.settle(handle)
        file = self.handles.pop(handle)
        file.writers.discard(handle)
        if not file.writers:
            file.finish()
        self.fs.release(handle)
        if file not in self.handles.values():
            file.saved = True  # the last close

    def settle(self, handle: int) -> None:
        """Flush, whatever comes of it: it stays in the spool."""
        if not self.fs._known.takes_files(posixpath.dirname(self.fs.path_of(handle))):
            # the file is sent, to find out whether the folder takes it
            self.handles[handle].finish()
        self.attempt(lambda: self.fs.flush(handle), None)
        if handle in self.writable:
            self.handles[handle].saved = True

    # The end, and after it.

    @rule()
    def everything_is_synced(self) -> None:
        for each in self.tree.values():
            if each is not None:
                each.finish()
        self.remote.calm()
        self.fs.retry()
        self.fs.sync("/", 20)
        for path, file in self.tree.items():
            if file is not None and file.saved:
                assert self.remote.content(path) == bytes(file.content), path

    @rule(resting=st.booleans())
    def killed(self, resting: bool) -> None:
        """As by kill -9: the spool is what it is at this moment, and no answer comes any more."""
        if resting:
            time.sleep(0.02)
        self.life.kill()
        left = self.spool_folder()
        self.lives += 1
        with self.disk.still:
            shutil.copytree(left, self.spool_folder())
        self.fs.close(0)
        self.handles.clear()
        self.writable.clear()
        self.live()
        for path in [path for path, file in self.tree.items() if file is not None]:
            file = self.tree[path]
            assert file is not None
            try:
                found = self.read_all(path)
            except errors.NotFound:
                assert not file.saved, f"{path} was closed, and is gone"
                del self.tree[path]
                continue
            file.writers.clear()
            if not file.saved:  # as far as it came
                file.content[:] = found
                file.saved = True
            file.finish()
            assert found == bytes(file.content), path

    def read_all(self, path: str) -> bytes:
        for _ in range(20):
            try:
                handle = self.fs.open(path, os.O_RDONLY)
                try:
                    return self.fs.read(handle, 0, 1 << 30)
                finally:
                    self.fs.release(handle)
            except errors.NetworkError:
                continue
        raise AssertionError("more faults than were ordered")

    # Names.

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        expected: Any = None
        if path not in self.tree:
            expected = (errors.NotFound, errors.NotADirectory)
        elif self.tree[path] is None:
            expected = errors.IsADirectory
        done, _ = self.attempt(lambda: self.fs.unlink(path), expected)
        if done or (expected is None and not self.shows(path)):
            del self.tree[path]

    @precondition(lambda self: self.faulty)
    @rule(path=paths)
    def unlink_whose_answer_is_lost(self, path: str) -> None:
        if self.handles:
            return
        self.remote.fail("remove", errors.DeadlineExceeded("ordered"), too_late=True)
        self.unlink(path)
        self.remote.calm()

    @rule(path=st.sampled_from(DIRECTORIES[1:]))
    def mkdir(self, path: str) -> None:
        if path in self.tree or not self.parent_is_there(path):
            return
        done, _ = self.attempt(lambda: self.fs.mkdir(path, 0o755), None)
        if done or self.shows(path):
            self.tree[path] = None

    @rule(path=st.sampled_from(DIRECTORIES[1:]))
    def rmdir(self, path: str) -> None:
        expected: Any = None
        if path not in self.tree:
            expected = (errors.NotFound, errors.NotADirectory)
        elif self.tree[path] is not None:
            expected = errors.NotADirectory
        elif self.has_children(path):
            expected = errors.NotEmpty
        elif self.hides_open_files(path):
            # A file deleted while it was open waits in there for its last handle: as on NFS.
            expected = errors.NotEmpty
        done, _ = self.attempt(lambda: self.fs.rmdir(path), expected)
        if done or (expected is None and not self.shows(path)):
            del self.tree[path]

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        # The kernel itself refuses these.
        if old not in self.tree or not self.parent_is_there(new) or new.startswith(old + "/"):
            return
        if old.startswith(new + "/") or old == new:
            return
        expected: Any = None
        source_is_directory = self.tree[old] is None
        if new in self.tree:
            target_is_directory = self.tree[new] is None
            if target_is_directory and not source_is_directory:
                expected = errors.IsADirectory
            elif source_is_directory and not target_is_directory:
                expected = errors.NotADirectory
            elif self.has_children(new) or (target_is_directory and self.hides_open_files(new)):
                expected = errors.NotEmpty
        for path, file in self.tree.items():
            if path == old and file is not None:
                file.finish()  # a rename that asks the server uploads the file first
        done, _ = self.attempt(lambda: self.fs.rename(old, new), expected)
        if done:
            for path in [p for p in self.tree if p == old or p.startswith(old + "/")]:
                self.tree[new + path[len(old) :]] = self.tree.pop(path)

    def hides_open_files(self, path: str) -> bool:
        return any(p.startswith(path + "/") and HIDDEN in p for p in self.remote.files())

    def shows(self, path: str) -> bool:
        """Whether a failed change was carried out after all: what the file system says now."""
        for _ in range(20):
            try:
                self.fs.attributes(path)
            except (errors.NotFound, errors.NotADirectory):
                return False
            except errors.NetworkError:
                continue
            return True
        raise AssertionError("more faults than were ordered")

    # Looking.

    @rule(path=paths)
    def getattr(self, path: str) -> None:
        missing = (errors.NotFound, errors.NotADirectory)
        expected = None if path in self.tree else missing
        done, entry = self.attempt(lambda: self.fs.attributes(path), expected)
        if done:
            file = self.tree[path]
            assert (entry.kind is Kind.DIRECTORY) == (file is None)
            if file is not None:
                assert entry.size == len(file.content)

    @rule(path=st.sampled_from(DIRECTORIES))
    def readdir(self, path: str) -> None:
        if path != "/" and self.tree.get(path, path) is not None:
            return
        done, entries = self.attempt(lambda: self.fs.children(path), None)
        if done:
            names = {posixpath.basename(p) for p in self.tree if posixpath.dirname(p) == path}
            assert {entry.name for entry in entries} == names

    @invariant()
    def no_download_is_left_behind(self) -> None:
        assert self.remote.open_downloads <= max(1, len(self.handles)) * 4

    def teardown(self) -> None:
        self.remote.calm()
        for handle in list(self.handles):
            self.settle(handle)
            self.fs.release(handle)
        assert not self.fs.close(20)
        files = {path: bytes(file.content) for path, file in self.tree.items() if file is not None}
        left = self.remote.files()
        if self.faulty:
            # A deleted file whose removal failed at its last close stays behind until the next
            # mount, and the log says so; nothing of it shows in the mount.
            left = {path: content for path, content in left.items() if HIDDEN not in path}
        differ = {path for path in left.keys() | files.keys() if left.get(path) != files.get(path)}
        assert not differ
        assert self.remote.directories() == {p for p, f in self.tree.items() if f is None}
        self.folder.cleanup()


class AsMounted(Model):
    options = Cache()


class WithoutFaults(AsMounted):
    faulty = False

    @invariant()
    def nothing_is_on_the_server_that_a_program_has_not_finished(self) -> None:
        files = self.remote.files()
        for path, file in self.tree.items():
            # Parts that are changed in a large file are seen one by one.
            if file is not None and path in files and len(files[path]) < WORTH_PATCHING:
                assert files[path] in file.finished, path


class TinyCache(Model):
    options = Cache(block_cache=2 * BLOCK_SIZE)


class AmongOthers(AsMounted):
    """Others change files on the server: at rest, what they did shows when a listing is not
    believed any more; under a file that waits to be uploaded, theirs keeps the name and ours
    becomes a conflict copy."""

    def listings_expire(self) -> None:
        self.passed += self.options.list_ttl + 1

    def at_rest(self, path: str) -> File | None:
        """The file at `path`, if all is uploaded and no handle is open on it."""
        file = self.tree.get(path)
        if file is None or file in self.handles.values():
            return None
        self.everything_is_synced()
        return file

    def unlike(self) -> bytes:
        """Content of a size that no other content has: FTP tells only size and whole seconds."""
        self.seed += 1
        return pattern(self.seed, 1000 + self.seed)[: 1000 + self.seed]

    @rule(path=paths)
    def others_replace(self, path: str) -> None:
        if self.at_rest(path) is not None:
            theirs = self.unlike()
            self.remote.outside_write(path, theirs)
            self.tree[path] = File(theirs)
            self.listings_expire()

    @rule(path=paths)
    def others_create(self, path: str) -> None:
        if path not in self.tree and self.parent_is_there(path) and not self.handles:
            self.everything_is_synced()
            theirs = self.unlike()
            self.remote.outside_write(path, theirs)
            self.tree[path] = File(theirs)
            self.listings_expire()

    @rule(path=paths)
    def others_delete(self, path: str) -> None:
        if self.at_rest(path) is not None:
            self.remote.outside_remove(path)
            del self.tree[path]
            self.listings_expire()

    @rule(old=paths, new=paths)
    def others_rename(self, old: str, new: str) -> None:
        if new not in self.tree and self.parent_is_there(new) and not self.handles:
            file = self.at_rest(old)
            if file is not None:
                self.remote.outside_write(new, bytes(file.content))
                self.remote.outside_remove(old)
                self.tree[new] = self.tree.pop(old)
                self.listings_expire()

    @rule(path=paths, dies=st.booleans())
    def others_replace_what_waits(self, path: str, dies: bool) -> None:
        if self.at_rest(path) is None:
            return
        mine, theirs = self.unlike(), self.unlike()
        self.fs._known.note_takes(posixpath.dirname(path))  # or the close would wait
        self.remote.stall_uploads = gate = Gate()
        handle = self.fs.open(path, os.O_WRONLY | os.O_TRUNC)
        self.fs.write(handle, 0, mine)
        self.fs.flush(handle)
        self.fs.release(handle)
        self.tree[path] = File(mine)
        self.remote.outside_write(path, theirs)
        self.remote.stall_uploads = None
        if dies:
            threading.Timer(0.05, gate.open).start()
            self.killed(resting=False)
        gate.open()
        self.fs.sync("/", 20)
        assert self.remote.content(path) == theirs
        (copy,) = {
            p for p, content in self.remote.files().items() if content == mine and HIDDEN not in p
        }
        assert posixpath.basename(copy).startswith(posixpath.basename(path) + " (conflict copy")
        self.tree[path], self.tree[copy] = File(theirs), File(mine)


@pytest.mark.long
@pytest.mark.parametrize("model", [Model, AsMounted, WithoutFaults, TinyCache, AmongOthers])
def test_random_operations_agree_with_the_model(
    model: type[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "LATE_SECONDS", 0)  # the memory remote carries nothing out later
    machine = model.TestCase
    machine.settings = settings(
        max_examples=int(os.environ.get("FTPFS_MODEL_EXAMPLES", "50")),
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine().runTest()
