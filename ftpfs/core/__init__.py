"""The file system itself. It runs without FUSE and without sockets.

`filesystem` is the POSIX face that `fuse.operations` calls. It knows a server only by the protocol
in `model.remote`. The folders below are one feature each. `reading` and `writing` do not know each
other; they meet in `files`.
"""
