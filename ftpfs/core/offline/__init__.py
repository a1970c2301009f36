"""Changes of names that wait for a server that is away.

A mount whose server is away makes, renames and deletes names here. Each such change is a *step*
(`steps`): a row of the journal, laid over the stored listings (`overlay`, `waiting`), and carried
out when the server is back (`replay`), before any upload.
"""
