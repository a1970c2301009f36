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

from ftpfs import errors, logs

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


def test_names_and_tracebacks_in_the_log_are_made_harmless(log_file: Path) -> None:
    logging.warning("a line of %s was not understood", EVIL)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logging.exception("nobody foresaw this")
    text = log_file.read_text()
    assert "Traceback (most recent call last):\n  File " in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.split("\n")[0].endswith("ERROR forged was not understood")


def test_a_log_that_was_rotated_away_is_begun_anew_for_its_user_alone(log_file: Path) -> None:
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


def test_what_ends_a_thread_is_in_the_log(tmp_path: Path) -> None:
    """A daemon has let go of stderr, where Python would tell it."""
    path = tmp_path / "ftpfs.log"
    code = (
        "import sys, threading; from pathlib import Path; from ftpfs import logs;"
        "logs.to_file(Path(sys.argv[1]), 'info');"
        "threading.Thread(target=lambda: 1 // 0, name='ftpfs-housekeeper').start();"
        "threading.Thread(target=sys.exit).start()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    text = path.read_text()
    assert text.count("CRITICAL") == 1
    assert "the thread ftpfs-housekeeper ended" in text
    assert "ZeroDivisionError" in text


def test_below_its_level_nothing_is_logged(log_file: Path) -> None:
    logging.debug("too much")
    logging.info("enough")
    assert [line.rpartition(" ")[2] for line in log_file.read_text().splitlines()] == ["enough"]


def test_a_log_that_cannot_be_written_is_an_error_where_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.FtpfsError, match="cannot log to"):
        logs.to_file(tmp_path / "file" / "log", "info")


def test_a_commands_log_and_traceback_are_made_harmless() -> None:
    """At the level debug a failure shows where it came from."""
    script = (
        "import sys, logging\n"
        "from ftpfs import cli, logs\n"
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
