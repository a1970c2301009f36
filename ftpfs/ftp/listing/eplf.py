"""Pure: LIST in EPLF, the easily parsed LIST format (D. J. Bernstein, 1996).

https://cr.yp.to/ftp/list/eplf.html describes it. Publicfile, anonftpd and small servers that follow
them send it.
"""

from __future__ import annotations

from ftpfs.ftp.listing.collecting import Parsed, size_of
from ftpfs.ftp.listing.context import Context
from ftpfs.ftp.listing.facts import octal
from ftpfs.model.entry import Entry, Kind


def eplf(line: bytes, context: Context) -> Parsed:
    """`+i8388621.48594,m825718503,r,s280,<tab>name`. m is in seconds UTC, so the time is exact."""
    facts, tab, name = line.partition(b"\t")
    if not tab or not facts.startswith(b"+"):
        return None
    kind, size, mtime, mode = Kind.FILE, None, None, None
    for fact in facts[1:].split(b","):
        letter, value = fact[:1], fact[1:]
        if letter == b"/":
            kind = Kind.DIRECTORY
        elif letter == b"s":
            size = size_of(value)
        elif letter == b"m":
            mtime = size_of(value)
        elif fact[:2] == b"up":
            mode = octal(fact[2:])
    return Entry(context.name(name), kind, size, mtime, mtime is not None, mode)
