"""The file system itself: tree, blocks, readers, writers. No FUSE and no sockets in here."""
