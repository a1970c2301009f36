"""Open files: the table of them, one of them, and the server's file below it.

A request for a handle comes in through the table. An open file joins what the server has with what
was written here.
"""
