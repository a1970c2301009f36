"""Reading: brings blocks of the server's files into memory, on demand or ahead of the reader.

An open file asks its `Reader` for bytes. The reader asks the block cache first, and fetches the
missing blocks.
"""
