"""The composition root: builds one mount out of its parts, runs it, and takes it down.

Owns: the checks before mounting, going to the background, and the order of leaving
(unmounted, then uploaded, then disconnected). Owns no file system logic, nor what happens while the
mount is there (`running`).

Threading: no thread and no connection exists before the fork that makes the daemon; threads are
started in libfuse's `init`.
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
from pathlib import Path
from typing import NoReturn

import platformdirs

from ftpfs import errors, logs, mountpoints, secrecy, systemd
from ftpfs.config import Config, Server
from ftpfs.core import disktier
from ftpfs.core.disktier import DiskTier
from ftpfs.core.filesystem import Filesystem
from ftpfs.core.writer import Spool
from ftpfs.ftp.memory import Memory
from ftpfs.ftp.remote import Remote
from ftpfs.fuse import binding
from ftpfs.fuse.operations import Look, Operations
from ftpfs.running import LeftBehind, Running

log = logging.getLogger(__name__)

# malloc.h. Blocks and libfuse's buffers have 128 KiB, which is where malloc begins to take each
# piece from the kernel and give it back: every one of its pages is then faulted in anew. Kept in
# the heap, reading a big file takes 2.3 s of system time for 1.5 GB instead of 3.6.
# One heap for all threads: blocks are made by one thread and freed by another, so a heap for each
# would keep what its busiest moment took. Reading with two streams: 94 MB at most instead of 200.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
HEAP_PIECE, HEAP_KEPT = 32 << 20, 64 << 20  # bytes

# At the end of the name of a read-only mount's spool folder.
READ_ONLY = ".ro"

# What the daemon tells the process that started it, over a pipe.
_READY, _FAILED = b"R", b"E"


def run(config: Config, mountpoint: str) -> int:
    """Mount. In the foreground: until unmounted. Else: 0 once the mount answers.

    Raises FtpfsError with one line that names the cause.
    """
    mountpoint = mountpoints.absolute(mountpoint)
    _clear_stale(mountpoint)
    _check_mountpoint(mountpoint)
    chosen = binding.choose(config.mount.binding)
    _check_device()
    if config.mount.foreground:
        logs.to_stderr(config.mount.log_level)
        _serve(config, mountpoint, chosen, started=lambda: None)
        return 0
    return _run_in_background(config, mountpoint, chosen)


@contextlib.contextmanager
def spooled(config: Config) -> Iterator[Filesystem]:
    """The file system without a mount, for what earlier mounts left in its spool. What is not
    uploaded at the end stays there. Raises FtpfsError."""
    _allow_many_files()
    spool = open_spool(config, read_only=False)  # whatever is said of mounts of it
    content = config.write.verify == "content"
    remote = Remote(config.server, config.network, owner=spool.owner, verify_content=content)
    try:
        _connect(remote, spool)
        filesystem = Filesystem(remote, spool, config.cache, write=config.write)
        try:
            filesystem.recover()
            yield filesystem
        finally:
            filesystem.close(grace=0)
    finally:
        remote.close()


# Before.


def _clear_stale(mountpoint: str) -> None:
    """Take away a mount of ours whose daemon died: what a restart after a crash finds.

    Lazily, as programs may still stand in it. One that is not ours is left alone.
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


def _check_device() -> None:
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
        raise errors.NotSupported("fusermount is missing (Debian, Ubuntu: apt install fuse3)")


# The daemon.


def _run_in_background(config: Config, mountpoint: str, chosen: binding.Binding) -> int:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _daemon(config, mountpoint, chosen, writing)
    os.close(writing)
    answer = _hear(child, reading)
    if answer == _READY:
        os.stat(mountpoint)  # answered by the daemon
        return 0
    os.waitpid(child, 0)
    line = answer.removeprefix(_FAILED).decode(errors="replace")
    raise errors.FtpfsError(line or "the mount process died without a word")


def _hear(child: int, reading: int) -> bytes:
    """What the daemon says of its start. Who interrupts or terminates us means the daemon, which is
    in a session of its own: Ctrl-C does not reach it, and it would mount later on."""

    def terminated(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with os.fdopen(reading, "rb") as pipe:
            return pipe.read()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _daemon(config: Config, mountpoint: str, chosen: binding.Binding, pipe: int) -> None:
    """The child's whole life. Never returns: what runs at exit belongs to the parent."""
    code = 1
    try:
        os.setsid()
        logs.to_file(config.mount.log_file, config.mount.log_level)

        def started() -> None:
            os.chdir("/")
            _let_go_of_terminal()
            os.write(pipe, _READY)
            os.close(pipe)

        _serve(config, mountpoint, chosen, started)
        code = 0
    except errors.FtpfsError as error:
        log.error("%s", error)
        with contextlib.suppress(OSError):
            os.write(pipe, _FAILED + str(error).encode(errors="replace"))
    except Exception as error:
        log.exception("the mount failed in a way nobody foresaw")
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
    config: Config, mountpoint: str, chosen: binding.Binding, started: Callable[[], None]
) -> None:
    """Connect, mount, serve until the end, leave."""
    secrecy.protect_memory()
    _keep_heap()
    _allow_many_files()
    spool = open_spool(config, read_only=config.mount.ro)
    # A name for this mount's temporary files; a read-only mount cleans up after nobody.
    owner = None if config.mount.ro else spool.owner
    memory = Memory(profile_file(config))
    remote = Remote(
        config.server,
        config.network,
        owner=owner,
        memory=memory,
        verify_content=config.write.verify == "content",
    )
    try:
        _connect(remote, spool)
        _mount(config, mountpoint, chosen, remote, spool, started)
    finally:
        remote.close()


def _allow_many_files() -> None:
    """Each file that was closed and is not on the server yet is an open spool file here: with the
    1024 that most systems begin with, `cp -r` of as many small files ends in EMFILE."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a limit that the kernel has lowered since
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _connect(remote: Remote, spool: Spool) -> None:
    """Log in, and see that the folder is there and may be read; else let the spool go."""
    try:
        remote.connect()
        remote.list("/")
    except BaseException:
        spool.remove()
        raise


def _mount(
    config: Config,
    mountpoint: str,
    chosen: binding.Binding,
    remote: Remote,
    spool: Spool,
    started: Callable[[], None],
) -> None:
    mount = config.mount
    filesystem = Filesystem(
        remote,
        spool,
        config.cache,
        write=config.write,
        read_only=mount.ro,
        # One connection is left for metadata, and one for who reads what was not foreseen.
        prefetchers=max(0, config.network.max_connections - 2),
        tier=_disk_tier(config),
    )
    running = Running(
        filesystem,
        remote,
        source=str(config.server),
        mountpoint=mountpoint,
        binding=f"{chosen.module} ({chosen.library})",
        spool=spool.folder,
        grace=mount.grace,
        leave_after=mount.leave_after,
        left_behind=_left_behind(config),
    )

    with _captured_stderr() as captured:

        def on_start() -> None:
            captured.end()
            if not mount.ro:
                filesystem.recover()
            running.start()
            filesystem.warm_up()
            log.info(
                "mounted %s on %s with %s (%s)",
                config.server,
                mountpoint,
                chosen.module,
                chosen.library,
            )
            started()
            systemd.notify(f"READY=1\nSTATUS={config.server} on {mountpoint}")

        def on_stop() -> None:
            systemd.notify("STOPPING=1\nSTATUS=Bringing the last writes to the server")
            running.stop()

        operations = Operations(
            filesystem,
            Look(mount.uid, mount.gid, mount.umask, mount.attr_errors == "ignore"),
            started=on_start,
            stopped=on_stop,
        )
        options = binding.MountOptions(
            name=str(config.server),
            read_only=mount.ro,
            allow_other=mount.allow_other,
            default_permissions=mount.default_permissions or mount.allow_other,
            attr_timeout=mount.attr_timeout,
            kernel_flags=mount.kernel_flags,
        )
        try:
            with running.signals_heard():
                binding.run(chosen, operations, mountpoint, options)
        except errors.FtpfsError as error:
            said = captured.text()
            raise errors.FtpfsError(f"{error}: {said}" if said else str(error)) from error


def open_spool(config: Config, *, read_only: bool) -> Spool:
    """The spool of a mount, locked for this process. A read-only mount has a folder of its own:
    what waits in the others is for a mount that may send it, which shall find them free."""
    write = config.write
    folder = spool_folder(config.server, write.spool_dir)
    if read_only:
        folder = folder.with_name(f"{folder.name}{READ_ONLY}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    limit = write.spool_size or shutil.disk_usage(folder).free // 2
    return Spool(folder, sync=write.spool_sync, limit=limit)


def _left_behind(config: Config) -> LeftBehind | None:
    """What a read-only mount tells of, and does not send."""
    if not config.mount.ro:
        return None
    folder = spool_folder(config.server, config.write.spool_dir)
    return LeftBehind(folder, f"ftpfs recover {config.server}")


def spool_folder(server: Server, chosen: Path | None = None) -> Path:
    """The folder for what is written to `server`: the same for each mount of it. `chosen`: the
    folder for all servers."""
    name = hashlib.sha256(str(server).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return (chosen or platformdirs.user_state_path("ftpfs") / "spool") / name


def profile_file(config: Config) -> Path:
    """Where it is kept what mounts have learned about this server, as this user, by this way."""
    server = config.server
    way = f"{server.tls.value} {server.data_mode.value} {server.encoding} {config.network.proxy}"
    key = f"{server.user}@{server.host}:{server.port} {way}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return platformdirs.user_state_path("ftpfs") / "servers" / f"{name}.json"


def _disk_tier(config: Config) -> DiskTier | None:
    if not config.cache.disk_cache:
        return None
    # The same names in another encoding are other files.
    folder = disktier.folder_of(f"{config.server} {config.server.encoding}")
    where = config.cache.disk_cache_dir or platformdirs.user_cache_path("ftpfs") / "blocks"
    return DiskTier(where / folder, config.cache.disk_cache)


def _keep_heap() -> None:
    """Have malloc reuse memory instead of returning it at every turn. Does nothing but in glibc."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, HEAP_PIECE)
        mallopt(M_TRIM_THRESHOLD, HEAP_KEPT)
        mallopt(M_ARENA_MAX, 1)


class _Captured:
    """What is written to stderr until `end`: libfuse explains itself there, and only there."""

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
        """The last line of it."""
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
