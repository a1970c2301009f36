"""`python -m ftpfs`."""

import sys

from ftpfs.cli import main

sys.exit(main())
