"""Keeping: files and folders of the server that are on this machine at all times."""
