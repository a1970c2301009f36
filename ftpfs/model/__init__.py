"""The types that every room uses: entries, names, the protocol of a server, reports.

Plain data and pure functions. Imports nothing of ftpfs but `errors`.
"""
