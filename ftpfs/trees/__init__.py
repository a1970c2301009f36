"""Whole trees between this machine and a server, without a mount: one engine for all commands.

`copying.Copying` copies trees, several files at a time:

    way = ways.Fetch(remote)                          # or ways.Send(remote)
    copying = Copying(way, way.rules(Rules()), jobs=way.jobs())
    copying.start([Root("/photos", "/home/me/photos")])   # files or folders, to exactly that path
    copying.wait()
    copying.finish()
    outcome = copying.outcome()                     # counts, and what failed and why

`removing.Removing` deletes trees in the same manner. `stop` ends a run after the transfers in
progress, `halt` ends these, too.

Paths on the server are those of `Remote`; paths on this machine are absolute.
"""
