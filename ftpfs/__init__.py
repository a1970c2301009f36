"""ftpfs: FTP and FTPS servers as local folders."""

__version__ = "0.1.0"
