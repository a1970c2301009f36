"""Writing: stores what was written on the local disk, and sends it to the server later.

An open file writes into the `spool`. A close writes a row of the `journal`. The `queue` decides
when the upload begins, and `capture` what it sends.
"""
