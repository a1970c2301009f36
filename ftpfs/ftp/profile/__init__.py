"""What one server can do: what it reports (FEAT, SYST), and what ftpfs learned by using it.

A `Profile` is one group of facts for each subject:

- `identity`: what the server says of itself, and what follows from its software;
- `wire`: how commands and connections travel to it;
- `names`: what its commands name files by, and whether it renames them;
- `listings`: which listings it has, and what they show;
- `times`: which times it reports, in which zone, and how fast;
- `setting`: how it sets times and modes;
- `contents`: what it does with a part of a file, and how it proves a whole one.

`facts` says what a fact is: its default, its form on disk, its words in `--quirk`. Each group
declares its facts on its fields, and `profile` makes one table of them all.

Owns the facts, and the questions that other modules ask about them. Does not talk to the server.

Threading: all sessions of one server share a profile. Every attribute is a plain value that is only
replaced as a whole, and learning the same fact twice is harmless, so no lock is needed.
"""

from ftpfs.ftp.profile.contents import Placing, Restart
from ftpfs.ftp.profile.identity import MAX_WELCOME, features_in
from ftpfs.ftp.profile.profile import Profile
from ftpfs.ftp.profile.setting import PROBE_TIME, SetTime
from ftpfs.ftp.profile.wire import Passive

__all__ = [
    "MAX_WELCOME",
    "PROBE_TIME",
    "Passive",
    "Placing",
    "Profile",
    "Restart",
    "SetTime",
    "features_in",
]
