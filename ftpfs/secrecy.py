"""Keeps a process that holds a password closed to others: /proc, core files, children.

Owns: what the kernel shows of this process's arguments and environment, and whether others may
look into its memory. Where passwords come from is `credentials`'.

Threading: called while the process has one thread.
"""

from __future__ import annotations

import os
import re
import sys

from ftpfs.credentials import PASSWORD_VARIABLE, PROXY_PASSWORD_VARIABLE

_PR_SET_DUMPABLE = 4  # linux/prctl.h
# In /proc/self/stat, proc(5): arg_start, arg_end, env_start, env_end are fields 48 to 51, counted
# here from the third.
_ARGUMENTS, _ENVIRONMENT = 45, 47

# From the colon after the user to the last @, so that a password with unescaped separators in it
# is covered too.
_IN_ADDRESS = re.compile(r"\A((?:[^/:]*://)?[^/:]*:)(?!//)(.*)(?=@)", re.DOTALL)
_IN_ENVIRONMENT = re.compile(
    rf"\A((?:{PASSWORD_VARIABLE}|{PROXY_PASSWORD_VARIABLE})=)(.*)", re.DOTALL
)


def hide_passwords() -> None:
    """Overwrite passwords in the memory that /proc/PID/cmdline and environ, and so ps, show.

    The kernel shows the bytes where it put them at exec. Python works on copies of the arguments,
    and of the environment in `os.environ`; only programs started from here see the stars.
    Where /proc does not say where the bytes are, they stay.
    """
    if any(map(_IN_ADDRESS.search, sys.argv)):
        _overwrite(_ARGUMENTS, _IN_ADDRESS)
    if PASSWORD_VARIABLE in os.environ or PROXY_PASSWORD_VARIABLE in os.environ:
        _overwrite(_ENVIRONMENT, _IN_ENVIRONMENT)


def protect_memory() -> None:
    """No core file of this process, and no other process of this user reads its memory or /proc.

    Linux; elsewhere only the core file is seen to.
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
    """Star what `pattern` finds in the NUL-ended words between `field` and the one after it."""
    import ctypes

    try:
        with open("/proc/self/stat", "rb") as stat:
            # The second field, the name, may hold spaces and brackets; the third follows the last.
            fields = stat.read().rpartition(b")")[2].split()
        start, end = int(fields[field]), int(fields[field + 1])
    except (OSError, ValueError, IndexError):
        return
    if not 0 < start < end:
        return
    shown = ctypes.string_at(start, end - start)
    # latin-1: one character a byte, whatever the bytes are.
    hidden = b"\0".join(
        pattern.sub(_starred, word.decode("latin-1")).encode("latin-1")
        for word in shown.split(b"\0")
    )
    ctypes.memmove(start, hidden, len(shown))
