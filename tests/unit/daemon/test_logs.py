"""The log: no server paints a terminal by it, rotation is noticed, others read nothing of it."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpfs import errors
from ftpfs.daemon import logs

EVIL = "\x1b[2J\x9b31m\u202ename\r\nERROR forged"


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """A log that is written to until the test ends; then logging is as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    path = tmp_path / "log" / "ftpfs.log"
    logs.to_file(path, "info")
    yield path
    for handler in root.handlers:
        with contextlib.suppress(ValueError):
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def test_log_escapes_names_and_tracebacks(log_file: Path) -> None:
    logging.warning("a line of %s was not understood", EVIL)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logging.exception("nobody foresaw this")
    text = log_file.read_text()
    assert "Traceback (most recent call last):\n  File " in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.split("\n")[0].endswith("ERROR forged was not understood")


def test_rotated_log_is_begun_again_for_its_user_alone(log_file: Path) -> None:
    before = os.umask(0)
    try:
        logging.warning("one")
        log_file.rename(log_file.with_suffix(".1"))
        logging.warning("two")
    finally:
        os.umask(before)
    assert "one" in log_file.with_suffix(".1").read_text()
    assert log_file.read_text().endswith("two\n")
    for path in (log_file, log_file.with_suffix(".1")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_same_line_is_written_once_a_minute_and_the_rest_counted(log_file: Path) -> None:
    for _ in range(1000):
        logging.warning("connecting to nas:21: connection refused")
    logging.warning("something else")
    lines = log_file.read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("something else (999 repeated lines were left out before)")


def test_lines_that_differ_only_in_a_name_are_bounded(log_file: Path) -> None:
    for number in range(10_000):
        logging.warning("open: /a/%d: connection refused", number)
    assert len(log_file.read_text().splitlines()) == logs.MAX_ALIKE


def test_program_that_polls_hides_no_other_line_of_the_same_place(log_file: Path) -> None:
    def told(path: str, error: errors.FtpfsError) -> None:
        logging.warning("open %s: %s", path, error)

    for _ in range(10_000):
        told("/polled", errors.ConnectionRefused("connection refused"))
    told("/other", errors.ConnectionRefused("connection refused"))
    for number in range(10_000):
        told(f"/{number}", errors.ConnectionRefused("connection refused"))
    told("/secret", errors.PermissionDenied("server replied 550: no"))
    lines = log_file.read_text().splitlines()
    assert "open /other: connection refused" in lines[1]
    assert "open /secret: server replied 550" in lines[-1]
    assert len(lines) == logs.MAX_ALIKE + 1


def test_repeated_line_is_written_again_after_a_minute() -> None:
    now = 0.0
    repeats = logs.Repeats(clock=lambda: now)

    def written() -> bool:
        return repeats.filter(logging.makeLogRecord({"msg": "away", "levelno": logging.WARNING}))

    assert [written(), written()] == [True, False]
    now = logs.REPEAT_SECONDS
    assert written()


def test_long_line_is_cut(log_file: Path) -> None:
    logging.warning("server replied: %s", "x" * (1 << 20))
    assert log_file.stat().st_size < 2 * logs.MAX_MESSAGE


def test_log_file_is_rotated_at_its_size_by_one_of_the_processes_that_write_to_it(
    log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_FILE_BYTES", 20_000)
    monkeypatch.setattr(logs, "MAX_ALIKE", 10_000)
    child = os.fork()
    for number in range(1000):
        logging.info("process %d, line %d", os.getpid(), number)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    old = log_file.with_name("ftpfs.log.1")
    assert log_file.stat().st_size <= 20_200
    assert 20_000 <= old.stat().st_size <= 20_200
    assert stat.S_IMODE(log_file.stat().st_mode) == 0o600
    assert sorted(each.name for each in log_file.parent.iterdir()) == ["ftpfs.log", "ftpfs.log.1"]


def test_exception_that_ends_a_thread_is_logged(tmp_path: Path) -> None:
    """A daemon has let go of stderr, where Python would tell it."""
    path = tmp_path / "ftpfs.log"
    code = (
        "import sys, threading; from pathlib import Path; from ftpfs.daemon import logs;"
        "logs.to_file(Path(sys.argv[1]), 'info');"
        "threading.Thread(target=lambda: 1 // 0, name='ftpfs-housekeeper').start();"
        "threading.Thread(target=sys.exit).start()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    text = path.read_text()
    assert text.count("CRITICAL") == 1
    assert "the thread ftpfs-housekeeper died" in text
    assert "ZeroDivisionError" in text


def test_nothing_is_logged_below_the_level(log_file: Path) -> None:
    logging.debug("too much")
    logging.info("enough")
    assert [line.rpartition(" ")[2] for line in log_file.read_text().splitlines()] == ["enough"]


def test_log_whose_folder_vanishes_fails_no_caller_and_goes_on_later(log_file: Path) -> None:
    log_file.unlink()
    hidden = log_file.parent.rename(log_file.parent.with_name("elsewhere"))
    logging.getLogger("ftpfs").info("lost")
    logging.getLogger("ftpfs").info("lost, too")
    hidden.rename(log_file.parent)
    logging.getLogger("ftpfs").info("written")
    assert "written" in log_file.read_text()


def test_unwritable_log_file_is_an_error_if_the_user_named_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.FtpfsError, match="cannot log to"):
        logs.to_file(tmp_path / "file" / "log", "info")


def test_command_escapes_its_log_and_traceback() -> None:
    """At the level debug a failure shows where it came from."""
    script = (
        "import sys, logging\n"
        "from ftpfs import cli\nfrom ftpfs.daemon import logs\n"
        "from ftpfs.errors import NotFound\n"
        "logs.to_terminal('debug')\n"
        f"logging.warning('%s', {EVIL!r})\n"
        "try: raise NotFound('/\\x1b[31m: no such file')\n"
        "except NotFound as error: sys.exit(cli._failure(str(error)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert b"\x1b" not in done.stderr
    assert b"\\x1b[31m" in done.stderr
