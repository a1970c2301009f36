"""Pure: parses directory listings: MLSD and MLST facts, LIST lines, and the times in them.

Owns the meaning of a server's lines about a file. Owns no command and no policy. The caller decides
which command to send, knows the encoding of names and the offset of the server's clock, and passes
both in.

No I/O, no clock, no state except memoised conversions; safe from any thread. Structure is read from
bytes and only names are decoded, so an odd byte in a name cannot disturb the parsing of a line. No
input raises: an unreadable line costs only that line (`Listing.rejected`). Every pattern is either
anchored or limited in its repetitions, so the work is linear in the length of a line.

The results are entries (`ftpfs.model.entry`). `facts` reads MLSD and MLST. `reading` reads LIST: it
tries the dialects (`unix`, `unixlike`, `dos`, `eplf`, `sized`, `mainframe`, `vms`), and the listing
as a whole decides what a single line leaves open. `words` and `dates` are their common grammar.
"""

from ftpfs.ftp.listing.facts import parse_mlsd, parse_mlst
from ftpfs.ftp.listing.reading import parse_list, parse_list_data
from ftpfs.ftp.listing.times import format_time_val, parse_time_val

__all__ = [
    "format_time_val",
    "parse_list",
    "parse_list_data",
    "parse_mlsd",
    "parse_mlst",
    "parse_time_val",
]
