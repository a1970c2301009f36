"""The file system for Python programs: a back end of fsspec on our own core.

`filesystem` has the classes; each of them is `base` with what `looking`, `receiving`, `sending` and
`names` add. `connections` shares one pool for each server and user in a process.
"""
