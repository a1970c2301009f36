"""The composition root: builds one mount out of its parts, runs it, and takes it down.

Owns the checks before mounting, going to the background, and the order of leaving: unmount, upload,
disconnect. Owns no file system logic. `running` has what happens while the mount runs.

Threading: no thread and no connection exists before the fork that makes the daemon. Threads start
in libfuse's `init`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ftpfs import errors
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.names.excluded import ExcludingRemote
from ftpfs.core.writing.spool import Spool
from ftpfs.daemon import leftovers, logs, mountpoints, places, spools, stores, stranger, systemd
from ftpfs.daemon.offline import Offline
from ftpfs.daemon.running import LeftBehind, Running
from ftpfs.ftp.connections.neighbours import Neighbours
from ftpfs.ftp.memory import Memory
from ftpfs.ftp.remote import Remote
from ftpfs.fuse import binding, packages
from ftpfs.fuse.kernel import KernelView
from ftpfs.fuse.operations import Look, Operations
from ftpfs.fuse.passthrough import Passthrough
from ftpfs.local import private
from ftpfs.settings import secrecy
from ftpfs.settings.config import Config, Server
from ftpfs.settings.excludes import matcher

log = logging.getLogger(__name__)

# Parameters of mallopt(3). Blocks and libfuse's buffers have 128 KiB. From that size on, malloc
# takes each piece from the kernel and returns it, and all of its pages are faulted in anew each
# time. If they stay in the heap, reading 1.5 GB takes 2.3 s of system time instead of 3.6. One heap
# serves all threads, because one thread makes a block and another frees it: with a heap for each
# thread, every heap would keep the most that it ever held. Reading with two streams takes at most
# 94 MB instead of 200.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
HEAP_PIECE_BYTES, HEAP_KEPT_BYTES = 32 << 20, 64 << 20

# At the end of the name of a read-only mount's spool folder.
READ_ONLY = ".ro"

# What the daemon tells the process that started it, over a pipe.
_READY, _FAILED = b"R", b"E"


def run(config: Config, mountpoint: str) -> int:
    """Mount a server. In the foreground: return after the unmount. Else: return 0 once it answers.

    Raises FtpfsError with one line that names the cause.
    """
    mountpoint = mountpoints.absolute(mountpoint)
    _clear_stale(mountpoint)
    _check_mountpoint(mountpoint)
    chosen = binding.choose(config.mount.binding)
    _check_device(chosen)
    if config.mount.foreground:
        logs.to_stderr(config.mount.log_level)
        _serve(config, mountpoint, chosen, started=lambda _notes: None)
        return 0
    return _run_in_background(config, mountpoint, chosen)


@contextlib.contextmanager
def spooled(config: Config) -> Iterator[Filesystem]:
    """The file system without a mount, to upload what earlier mounts left in its spool.

    What is not uploaded at the end stays in the spool. Raises FtpfsError.
    """
    _allow_many_files()
    spool = open_spool(config, read_only=False)  # even if the server's mounts are read-only
    content = config.write.verify == "content"
    neighbours = Neighbours(places.neighbours_folder(config.server), "ftpfs recover")
    remote = Remote(
        config.server,
        config.network,
        owner=spool.owner,
        neighbours=neighbours,
        verify_content=content,
    )
    try:
        offline = Offline(remote, config, None, spool.journal)
        _connect(offline, spool)
        filesystem = Filesystem(remote, spool, config.cache, write=config.write)
        filesystem.waiting = offline.waiting
        try:
            filesystem.recover()
            yield filesystem
        finally:
            filesystem.close(grace=0)
    finally:
        remote.close()


def passthrough_obstacle(config: Config) -> str:
    """Why the kernel would not read and write local files itself in a mount here; "": it would.

    For `ftpfs doctor`. Raises NotSupported if there is no FUSE here at all.
    """
    chosen = binding.choose(config.mount.binding)
    return binding.passthrough_obstacle(chosen, config.mount.passthrough)


# Before the mount.


def _clear_stale(mountpoint: str) -> None:
    """Unmount a mount of this user whose daemon died, as a restart finds it after a crash.

    Unmounts lazily, because programs may still have it as their working directory. Leaves mounts of
    other users alone.
    """
    if mountpoints.is_mounted(mountpoint) and mountpoints.crashed(mountpoint):
        log.warning("%s: taking away the mount of a daemon that died", mountpoint)
        mountpoints.unmount(mountpoint, lazy=True)


def _check_mountpoint(mountpoint: str) -> None:
    if mountpoints.is_mounted(mountpoint):
        raise errors.Exists(f"{mountpoint}: ftpfs is mounted there already")
    try:
        if os.path.ismount(mountpoint):
            raise errors.Exists(f"{mountpoint}: something is mounted there already")
        if os.listdir(mountpoint):
            raise errors.NotEmpty(f"{mountpoint}: not empty")
    except FileNotFoundError as error:
        raise errors.NotFound(f"{mountpoint}: no such directory (make it first)") from error
    except NotADirectoryError as error:
        raise errors.NotADirectory(f"{mountpoint}: not a directory") from error
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise errors.Exists(
                f"{mountpoint}: a crashed mount is in the way (fusermount -u {mountpoint})"
            ) from error
        raise


def _check_device(chosen: binding.Binding) -> None:
    if not os.path.exists(binding.FUSE_DEVICE):
        raise errors.NotSupported(
            f"{binding.FUSE_DEVICE} is missing (modprobe fuse; in a container: "
            f"--device {binding.FUSE_DEVICE} --cap-add SYS_ADMIN)"
        )
    if not os.access(binding.FUSE_DEVICE, os.R_OK | os.W_OK):
        raise errors.PermissionDenied(
            f"{binding.FUSE_DEVICE} may not be used by this user (chmod 666 {binding.FUSE_DEVICE})"
        )
    if os.getuid() and not (shutil.which("fusermount3") or shutil.which("fusermount")):
        command = packages.here(3 if chosen.fuse3 else 2)
        raise errors.NotSupported(f"fusermount is missing ({command})")


# The daemon.


def _run_in_background(config: Config, mountpoint: str, chosen: binding.Binding) -> int:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores an exception in what it calls after a fork, also that of Ctrl-C.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        os.close(reading)
        _daemon(config, mountpoint, chosen, writing)
    os.close(writing)
    answer = _hear(child, reading, unblocked)
    if answer.startswith(_READY):
        os.stat(mountpoint)  # answered by the daemon
        for note in answer.removeprefix(_READY).decode(errors="replace").splitlines():
            print(f"ftpfs: {note}", file=sys.stderr)
        return 0
    os.waitpid(child, 0)
    line = answer.removeprefix(_FAILED).decode(errors="replace")
    raise errors.FtpfsError(line or "the mount process died without an error message")


def _hear(child: int, reading: int, unblocked: set[int]) -> bytes:
    """Read what the daemon reports about its start. `unblocked`: the signal mask to go back to.

    If this process is interrupted or terminated, it ends the daemon, too. The daemon has a session
    of its own: Ctrl-C does not reach it, and it would mount later on.
    """

    def terminated(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        with os.fdopen(reading, "rb") as pipe:
            return pipe.read()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _daemon(config: Config, mountpoint: str, chosen: binding.Binding, pipe: int) -> None:
    """The child's whole life.

    Never returns, because functions that run at exit belong to the parent.
    """
    code = 1
    try:
        os.setsid()
        logs.to_file(config.mount.log_file, config.mount.log_level)

        def started(notes: list[str]) -> None:
            os.chdir("/")
            _let_go_of_terminal()
            os.write(pipe, _READY + "\n".join(notes).encode(errors="replace"))
            os.close(pipe)

        _serve(config, mountpoint, chosen, started)
        code = 0
    except errors.FtpfsError as error:
        log.error("%s", error)
        with contextlib.suppress(OSError):
            os.write(pipe, _FAILED + str(error).encode(errors="replace"))
    except Exception as error:
        log.exception("the mount failed: unexpected error")
        with contextlib.suppress(OSError):
            os.write(pipe, _FAILED + f"{type(error).__name__}: {error}".encode(errors="replace"))
    finally:
        logging.shutdown()
        os._exit(code)


def _let_go_of_terminal() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)


def _serve(
    config: Config, mountpoint: str, chosen: binding.Binding, started: Callable[[list[str]], None]
) -> None:
    """Connect, mount, serve until the end, leave. `started` gets lines for the user."""
    secrecy.protect_memory()
    _keep_heap()
    _allow_many_files()
    spool = open_spool(config, read_only=config.mount.ro)
    # The owner of this mount's temporary files. A read-only mount deletes none.
    owner = None if config.mount.ro else spool.owner
    memory = Memory(places.profile_file(config))
    remote = Remote(
        config.server,
        config.network,
        owner=owner,
        memory=memory,
        neighbours=Neighbours(places.neighbours_folder(config.server), mountpoint),
        verify_content=config.write.verify == "content",
    )
    place = _place(config, remote, spool)
    offline = Offline(remote, config, stores.open_listings(place), spool.journal)
    try:
        note = _connect(offline, spool)
        if not (note or config.mount.ro):
            leftovers.clean_up(remote)
        filesystem = _filesystem(config, offline, spool, place)
        offline.presence.returned = filesystem.server_returned
        notes = [line for line in (note, stores.trouble(place), stranger.warning()) if line]
        _mount(config, mountpoint, chosen, offline, filesystem, spool, lambda: started(notes))
    finally:
        offline.presence.close()
        remote.close()
        offline.close()


def _place(config: Config, remote: Remote, spool: Spool) -> stores.Place | None:
    """Where this mount stores; None: nowhere. If the user did not say, the link decides.

    While the server is away, a mount stores where an earlier one has. If the login fails for
    another reason, this releases the spool and raises what the server said.
    """
    place = stores.place_for(config)
    if place is None or place.wanted:
        return place
    try:
        remote.connect()
    except errors.NetworkError:  # `Offline` tells about it, or goes on
        return place if stores.was_used(place) else None
    except BaseException:
        spool.remove()
        remote.close()
        raise
    return place if place.pays(remote.round_trip()) else None


def _allow_many_files() -> None:
    """Raise the limit of open files as far as the system allows.

    Open files, connections and contents on disk need descriptors. Files that wait for the server
    need none (`core.writing.descriptors`).
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the kernel has lowered the limit meanwhile
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _connect(offline: Offline, spool: Spool) -> str:
    """Log in, and check that the folder exists and may be entered. If not, release the spool.

    Returns a line for the user if the mount goes on without its server, else "".
    """
    try:
        note = offline.connect()
        try:
            offline.server.list("/")
        # a folder that takes files, but may not be listed
        except errors.PermissionDenied as refusal:
            log.warning("the folder cannot be listed, but files in it may be used: %s", refusal)
    except BaseException:
        spool.remove()
        raise
    return note


def _mount(
    config: Config,
    mountpoint: str,
    chosen: binding.Binding,
    offline: Offline,
    filesystem: Filesystem,
    spool: Spool,
    started: Callable[[], None],
) -> None:
    mount = config.mount
    passthrough = Passthrough(binding.passthrough_obstacle(chosen, mount.passthrough))
    running = Running(
        filesystem,
        offline.remote,
        source=str(config.server),
        mountpoint=mountpoint,
        binding=f"{chosen.module} ({chosen.library})",
        spool=spool.folder,
        grace=mount.grace,
        leave_after=offline.leave_after,
        left_behind=_left_behind(config),
        has_ended=binding.has_ended,
        presence=offline.presence,
        passthrough=lambda: replace(passthrough.status(), unlent=filesystem.lent.unlent()),
    )

    with _captured_stderr() as captured:

        def on_start() -> None:
            captured.end()
            running.hear_signals()
            if not mount.ro:
                filesystem.recover()
            running.start()
            filesystem.warm_up()
            log.info(
                "mounted %s on %s with %s (%s)",
                *(config.server, mountpoint, chosen.module, chosen.library),
            )
            started()
            systemd.notify(f"READY=1\nSTATUS={config.server} on {mountpoint}")

        def on_stop() -> None:
            systemd.notify("STOPPING=1\nSTATUS=Bringing the last writes to the server")
            running.stop()

        operations = Operations(
            filesystem,
            Look(mount.uid, mount.gid, mount.umask, mount.attr_errors == "ignore"),
            KernelView(mountpoint, mount.attr_timeout),
            passthrough,
            started=on_start,
            stopped=on_stop,
        )
        try:
            with running.signals_heard():
                binding.run(chosen, operations, mountpoint, _mount_options(config))
        except errors.FtpfsError as error:
            said = captured.text()
            raise errors.FtpfsError(f"{error}: {said}" if said else str(error)) from error


def _filesystem(
    config: Config, offline: Offline, spool: Spool, place: stores.Place | None
) -> Filesystem:
    store = stores.open_store(config, place) if place is not None else None
    if store is not None:
        store.follow_names(offline.waiting.origin, offline.server.is_offline)
    server = offline.server
    if config.mount.exclude:
        server = ExcludingRemote(server, matcher(config.mount.exclude), spool.folder)
    filesystem = Filesystem(
        server,
        spool,
        config.cache,
        write=config.write,
        read_only=config.mount.ro,
        # One connection is left for metadata, and one for reads that were not foreseen.
        prefetchers=max(0, config.network.max_connections - 2),
        store=store,
    )
    filesystem.waiting = offline.waiting
    return filesystem


def _mount_options(config: Config) -> binding.MountOptions:
    mount = config.mount
    return binding.MountOptions(
        name=str(config.server),
        read_only=mount.ro,
        allow_other=mount.allow_other,
        default_permissions=mount.default_permissions or mount.allow_other,
        attr_timeout=mount.attr_timeout,
        kernel_flags=mount.kernel_flags,
    )


def open_spool(config: Config, *, read_only: bool) -> Spool:
    """The spool of a mount, locked for this process.

    A read-only mount has a folder of its own. So the folders with waiting files stay free for a
    mount that may send them.
    """
    write = config.write
    folder = spool_folder(config.server, write.spool_dir)
    if read_only:
        folder = folder.with_name(f"{folder.name}{READ_ONLY}")
    try:
        return _spool_in(folder, config, noted=not read_only)
    except (OSError, errors.FtpfsError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        if not read_only:
            raise errors.FtpfsError(
                f"{folder}, where what is written waits for the server, cannot be used: {why} "
                "(spool_dir=FOLDER names another place; a mount with ro needs none)"
            ) from error
        log.warning("%s cannot be used: %s; this mount has a folder in /tmp", folder, why)
    return _spool_in(Path(tempfile.mkdtemp(prefix="ftpfs-")), config, noted=False)


def _spool_in(folder: Path, config: Config, *, noted: bool) -> Spool:
    """The spool in `folder`. `noted`: later commands find the folder if this mount is killed."""
    write = config.write
    private.make_folder(folder)
    if noted:
        spools.note(str(config.server), folder, write.spool_dir)
    limit = write.spool_size or shutil.disk_usage(folder).free // 2
    is_exact = bool(write.spool_size)
    return Spool(folder, sync=write.spool_sync, limit=limit, is_limit_exact=is_exact)


def _left_behind(config: Config) -> LeftBehind | None:
    """Where files wait that a read-only mount reports, but does not send."""
    if not config.mount.ro:
        return None
    folder = spool_folder(config.server, config.write.spool_dir)
    return LeftBehind(folder, f"ftpfs recover {config.server}")


def spool_folder(server: Server, chosen: Path | None = None) -> Path:
    """The folder for what is written to `server`, the same for each mount of that server.

    `chosen`: the folder that holds the spools of all servers.
    """
    name = hashlib.sha256(str(server).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return (chosen or places.state() / "spool") / name


def _keep_heap() -> None:
    """Make malloc reuse memory instead of returning it. Only glibc has this setting."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, HEAP_PIECE_BYTES)
        mallopt(M_TRIM_THRESHOLD, HEAP_KEPT_BYTES)
        mallopt(M_ARENA_MAX, 1)


class _Captured:
    """Captures stderr until `end`, because libfuse explains a failure nowhere else."""

    def __init__(self) -> None:
        self._saved = os.dup(2)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._ended = False
        os.dup2(self._file.fileno(), 2)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            os.dup2(self._saved, 2)
            os.close(self._saved)

    def text(self) -> str:
        """The last line that was captured."""
        self._file.seek(0)
        lines = self._file.read().decode(errors="replace").strip().splitlines()
        return errors.printable(lines[-1]) if lines else ""

    def close(self) -> None:
        self.end()
        self._file.close()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[_Captured]:
    captured = _Captured()
    try:
        yield captured
    finally:
        captured.close()
