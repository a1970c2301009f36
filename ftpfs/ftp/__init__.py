"""One FTP server: `remote` offers it as operations on paths.

`looking`, `changing` and `setting` choose the commands, `connections` carries them, `listing` reads
what the server says of files, `uploading` brings contents there, and `profile` knows what this
server can do. Nothing here knows of mounts, caches or FUSE.
"""
