"""Contents of the server's files on the local disk, for this mount and later ones."""
