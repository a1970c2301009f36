"""fsspec's own suite for file systems, on the four real servers, in clear and over TLS."""

from __future__ import annotations

from typing import Any

import pytest
from fsspec.tests import abstract

from ftpfs import FTPFileSystem


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, served: Any) -> FTPFileSystem:
        found: FTPFileSystem = served.filesystem()
        return found

    @pytest.fixture
    def fs_path(self, served: Any) -> str:
        path: str = served.path
        return path


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass
