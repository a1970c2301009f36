"""Replies: the folder in PWD's, the port in EPSV's and PASV's, the features in FEAT's.

Pure: no I/O. Server text is untrusted: no pattern repeats without a bound or an anchor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ftpfs import errors
from ftpfs.ftp.connections.control import Reply
from ftpfs.ftp.profile import Passive


def home_in(text: str) -> str:
    """The folder in the reply to PWD, without its code; "" if there is none.

    RFC 959, appendix II: `"PATHNAME" comment`, with quotes doubled inside. Some servers omit the
    quotes, or write apostrophes (which belong to the name on MVS), before or behind a comment.
    """
    if quoted := _QUOTED.search(text):
        return quoted[1].replace('""', '"')
    if quoted := _APOSTROPHES.search(text):
        return quoted[1] or quoted[2]
    if bare := _VMS_PATH.search(text):
        return bare[1]
    if begun := _PATH_BEGINS.search(text):
        # The path may contain spaces, and ends with its line or before a comment.
        path = text[begun.start() :].partition("\n")[0]
        comment = _COMMENT.search(path)
        path = (path[: comment.start()] if comment else path).rstrip(" \t")
        return path.removesuffix(".") if len(path) > 1 else path
    return ""


def port_in(way: Passive, reply: Reply) -> int:
    """The port in the reply to EPSV or PASV. Raises DataConnectionFailed if there is none."""
    reply.check()
    found = (_EPSV if way is Passive.EPSV else _PASV).search(reply.lines[-1])
    if not found:
        raise errors.DataConnectionFailed(
            f"no port in the reply to {way.value}: {errors.printable(reply.lines[-1])}"
        )
    if way is Passive.EPSV:
        return int(found.group(2))
    return int(found.group(1)) * 256 + int(found.group(2))


def features_of(feat: Reply) -> Sequence[str]:
    """The lines between the first and the last of the reply to FEAT; none if it was refused."""
    return feat.lines[1:-1] if feat.ok else ()


_QUOTED = re.compile(r'(?<!\S)"((?:[^"\n]|"")*)"')
# 'SMITH.' is a name of MVS, including the apostrophes; '/home/me' is a quoted path.
_APOSTROPHES = re.compile(r"(?<!\S)(?:'(/[^\n]*)'|('[^'/\s]+'))(?!\S)")
_VMS_PATH = re.compile(r"(?<!\S)([^\s:\[\]]{1,255}:\[[^\s\[\]]{1,255}\])")
_PATH_BEGINS = re.compile(r"""(?<![^\s"'])(?:/|[A-Za-z]:[/\\])""")
_COMMENT = re.compile(
    r"[ \t](?:is|as)[ \t]|[ \t][(-]?[ \t]?(?:the |your )?"
    r"(?:current|present|working|default|home) (?:working )?(?:directory|folder|dir|location|path)",
    re.IGNORECASE,
)
_EPSV = re.compile(r"\((.)\1\1(\d{1,5})\1\)")  # RFC 2428, 3: (|||port|), any delimiter
_PASV = re.compile(r"\d+,\d+,\d+,\d+,(\d{1,3}),(\d{1,3})")  # RFC 1123, 4.1.2.6: find the digits
