"""Hides passwords in this process from other processes: /proc, core files, memory.

Owns what the kernel shows of the arguments and the environment of this process, and who may read
its memory. `credentials` finds the passwords.

Threading: called while the process has one thread.
"""

from __future__ import annotations

import os
import re
import sys

from ftpfs.settings.credentials import PASSWORD_VARIABLE, PROXY_PASSWORD_VARIABLE

_PR_SET_DUMPABLE = 4  # linux/prctl.h
# proc(5): arg_start, arg_end, env_start and env_end are the fields 48 to 51 of /proc/self/stat. The
# numbers here count from the third field.
_ARGUMENTS, _ENVIRONMENT = 45, 47

# From the colon after the user to the last @: a password may contain unescaped separators.
_IN_ADDRESS = re.compile(r"\A((?:[^/:]*://)?[^/:]*:)(?!//)(.*)(?=@)", re.DOTALL)
_IN_ENVIRONMENT = re.compile(
    rf"\A((?:{PASSWORD_VARIABLE}|{PROXY_PASSWORD_VARIABLE})=)(.*)", re.DOTALL
)


def hide_passwords() -> None:
    """Overwrite passwords with stars in /proc/PID/cmdline and /proc/PID/environ, and so in ps.

    The kernel shows the memory that it filled at exec. Python has copies of the arguments, and of
    the environment in `os.environ`, which stay as they are. Programs that inherit the environment
    get the stars. Does nothing if /proc does not tell the addresses.
    """
    if any(map(_IN_ADDRESS.search, sys.argv)):
        _overwrite(_ARGUMENTS, _IN_ADDRESS)
    if PASSWORD_VARIABLE in os.environ or PROXY_PASSWORD_VARIABLE in os.environ:
        _overwrite(_ENVIRONMENT, _IN_ENVIRONMENT)


def protect_memory() -> None:
    """Forbid core files, and keep other processes of this user from reading memory and /proc.

    Outside Linux it only forbids core files.
    """
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _starred(match: re.Match[str]) -> str:
    return match[1] + "*" * len(match[2])


def _overwrite(field: int, pattern: re.Pattern[str]) -> None:
    """Put stars over what `pattern` matches in the words between `field` and the next one."""
    import ctypes

    try:
        with open("/proc/self/stat", "rb") as stat:
            # The second field, the name, may contain spaces and brackets. The third follows
            # the last bracket.
            fields = stat.read().rpartition(b")")[2].split()
        start, end = int(fields[field]), int(fields[field + 1])
    except (OSError, ValueError, IndexError):
        return
    if not 0 < start < end:
        return
    shown = ctypes.string_at(start, end - start)
    # latin-1 maps each byte to one character.
    hidden = b"\0".join(
        pattern.sub(_starred, word.decode("latin-1")).encode("latin-1")
        for word in shown.split(b"\0")
    )
    ctypes.memmove(start, hidden, len(shown))
