"""The names of the tree: what is cached of them, and renames and deletions that are under way.

`tree` answers look-ups and listings. The other modules keep it right while the server is asked to
change something, or ahead of a program that walks through the tree.
"""
