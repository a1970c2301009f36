"""`ftpfs queue` with daemons that answer: what is listed, and who is told to retry."""

from __future__ import annotations

import io
from collections.abc import Iterator

from ftpfs.commands import mounts, show
from ftpfs.daemon.control_socket import Reply, Request
from tests.unit.commands.test_mounts import (  # noqa: F401 (fixtures)
    HERE,
    OTHER,
    Serve,
    System,
    saying,
    serve,
    system,
    told,
)
from tests.unit.commands.test_show import EVIL, pending


def test_list_shows_what_waits_below_the_path(serve: Serve) -> None:  # noqa: F811 (a fixture)
    files = [pending("/a/b", "failed", error="552 quota"), pending("/ab"), pending("/a")]
    serve(status=saying(told("mounted", *files)))
    found, silent = mounts.queued(f"{HERE}/a")
    assert [path for path, _ in found] == [f"{HERE}/a/b", f"{HERE}/a"]
    assert silent == []
    assert len(mounts.queued(None)[0]) == 3


def test_mount_without_a_daemon_is_told(serve: Serve, system: System) -> None:  # noqa: F811 (a fixture)
    system.mounts.append(OTHER)
    serve(status=saying(told("mounted", pending("/a"))))
    found, (line,) = mounts.queued(None)
    assert [path for path, _ in found] == [f"{HERE}/a"]
    assert line.startswith(f"{OTHER}: ")


def test_retry_goes_to_the_mount_with_the_path(serve: Serve) -> None:  # noqa: F811 (a fixture)
    asked = []

    def retry(request: Request) -> Iterator[Reply]:
        asked.append(request["path"])
        yield {}

    serve(retry=retry)
    assert mounts.retry(f"{HERE}/a b") == []
    assert mounts.retry(None) == []
    assert asked == ["/a b", "/"]


def test_names_and_errors_stay_in_their_lines() -> None:
    out = io.StringIO()
    show.queued([("/m" + EVIL, pending(EVIL, "failed", error=EVIL))], out)
    assert len(out.getvalue().splitlines()) == 2
    assert "\x1b" not in out.getvalue()
    out = io.StringIO()
    show.queued([], out)
    assert out.getvalue() == "nothing waits\n"
