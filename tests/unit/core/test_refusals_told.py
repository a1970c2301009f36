"""What the log says of calls that fail: refusals of the server, not answers."""

from __future__ import annotations

import errno
import logging
from typing import Any, cast

import pytest

from ftpfs import errors
from ftpfs.fuse.kernel import KernelView
from ftpfs.fuse.operations import Look, Operations


def operations(failure: BaseException) -> Operations:
    class Failing:
        def __getattr__(self, _name: str) -> Any:
            def fail(*_arguments: object) -> None:
                raise failure

            return fail

    look = Look(0, 0, 0o022, ignore_attribute_errors=False)
    kernel = KernelView("/nowhere", 1.0)
    return Operations(
        cast(Any, Failing()), look, kernel, started=lambda: None, stopped=lambda: None
    )


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (errors.PermissionDenied("server replied 550: no"), errno.EACCES),
        (errors.ProtocolError("not an FTP reply: x"), errno.EIO),
        (errors.DataMismatch("3 of 5 bytes arrived"), errno.EIO),
        (errors.QuotaExceeded("server replied 552: quota"), errno.EDQUOT),
        (errors.NotSupported("server replied 502: no"), errno.EOPNOTSUPP),
        (errors.ConnectionRefused("connecting to nas:21: refused"), errno.EIO),
    ],
)
def test_refusal_is_a_line_in_the_log(
    failure: errors.FtpfsError, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(OSError, match=str(failure)) as caught:
        operations(failure).mkdir("/folder", 0o755)
    assert caught.value.errno == code
    (line,) = caplog.messages
    assert line == f"mkdir /folder: {failure} ({errno.errorcode[code]})"


@pytest.mark.parametrize("failure", [errors.NotFound("no"), errors.Exists("is there")])
def test_answer_is_no_line_in_the_log(
    failure: errors.FtpfsError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(OSError, match=str(failure)):
        operations(failure).mkdir("/folder", 0o755)
    assert caplog.messages == []
