"""The FTP side: listings, sessions, the pool, and a server as path operations."""
