"""Uploads: from a local content to a file on the server.

`uploads` is where callers begin. `store` sends a whole file, `patch` some ranges, `append` what was
added to the end. `content` and `sender` move the bytes; `target` and `expectation` know the final
name; `temporaries`, `folders`, `probes` and `checks` know the server.
"""
