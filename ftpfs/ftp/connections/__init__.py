"""Connections to one server: the pool of sessions, a session, and the transfers on it.

A caller leases a session from the `pool`, sends commands on it, and moves bytes by `transfers`.
`control` and `transfers` are the edge to the sockets.
"""
