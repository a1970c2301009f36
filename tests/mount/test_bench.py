"""The benchmark: the mistakes that it must never make."""

from __future__ import annotations

import contextlib
import dataclasses
import ftplib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from scripts.benchmark import chart, report
from scripts.benchmark.__main__ import main
from scripts.benchmark.commands import COMMANDS
from scripts.benchmark.data import MIB, Buffer, Store
from scripts.benchmark.link import Lane
from scripts.benchmark.parameters import BadParameter, Link, Parameters, Sizes, parse_link
from scripts.benchmark.peers import Mount, Peer, Place, Usage
from scripts.benchmark.report import Line, Run, Table
from scripts.benchmark.runner import Result, run_all, run_trial
from scripts.benchmark.servers import Endpoint
from scripts.benchmark.trial import Bench, Figure, Trial
from scripts.benchmark.wire import Tap
from scripts.benchmark.workloads import CASES, Case, Row
from tests.conftest import StartServer
from tests.support.servers import CHECKOUT
from tests.support.waiting import until

SIZES = Sizes(big=4, patched=2, small=5, tree=50, wide=30, random=20, probes=2, source=12)
PARAMETERS = Parameters(
    link=Link(),
    server="vsftpd",
    peers=("copy",),
    only=("read",),
    rounds=1,
    timeout=20,
    budget=None,
    sizes=SIZES,
)
BY_NAME = {case.name: case for case in CASES}
SHARED = {case.stock for case in CASES if not case.changes}


class CopyMount(Mount):
    """A plain folder in place of a mount.

    It copies to the server's folder, or is that folder if the case writes.
    """

    def __init__(self, place: Place) -> None:
        self.here = place.here
        # A case under test is the only one on its server.
        (self.disk,) = place.server.root.iterdir()
        self.folder = self.here / self.disk.name
        if self.disk.name in SHARED:
            shutil.copytree(self.disk, self.folder)
        else:
            self.folder.symlink_to(self.disk)

    def forget_peak(self) -> None:
        pass

    def usage(self) -> Usage:
        return Usage(0.0, 0)

    def close(self) -> None:
        pass

    def kill(self) -> None:
        pass


def spoil_one_byte(folder: Path) -> None:
    """Change the last byte of the last file: the one that a careless comparison would miss."""
    path = max(path for path in folder.rglob("*") if path.is_file())
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


class CopyPeer(Peer):
    """A peer without faults, unless `spoil` damages the folder of the case."""

    name = "copy"

    def __init__(self, spoil: Callable[[Path], None] = lambda folder: None) -> None:
        self._spoil = spoil

    def mount(self, place: Place, wait: float) -> Mount:
        mount = CopyMount(place)
        self._spoil(mount.folder)
        return mount


class SpoilingLater(CopyPeer):
    """Writes correctly, and damages what it has written when it is unmounted."""

    def mount(self, place: Place, wait: float) -> Mount:
        class Spoilt(CopyMount):
            def close(self) -> None:
                spoil_one_byte(self.disk)

        return Spoilt(place)


def changed(**values: Any) -> Parameters:
    return dataclasses.replace(PARAMETERS, **values)


def errors(figures: Iterable[Figure]) -> list[str]:
    """The errors of all results. Each result has to have one."""
    assert all(figure.seconds is None for figure in figures)  # failed, not fast
    return [figure.error or "none" for figure in figures]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "root").mkdir()
    (tmp_path / "master").mkdir()
    server = Endpoint(
        kind="none",
        host="127.0.0.1",
        port=9,
        user="",
        password="",
        root=tmp_path / "root",
        uid=os.getuid(),
        gid=os.getgid(),
        device="lo",
    )
    buffer = Buffer(SIZES.big * MIB)
    store = Store(tmp_path / "master", SIZES, PARAMETERS.seed)
    yield Bench(PARAMETERS, server, store, buffer, None, drop_caches=lambda: None)
    buffer.close()


# What must not pass.


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_good_peer_passes_every_case(bench: Bench, case: Case) -> None:
    figures = run_trial(bench, case, CopyPeer())
    assert [figure.error for figure in figures] == [None] * len(case.rows)
    assert [figure.row for figure in figures] == [row.name for row in case.rows]
    assert all(figure.seconds for figure in figures)
    for row, figure in zip(case.rows, figures, strict=True):
        if row.settles:
            assert (figure.settled or 0) >= (figure.seconds or 0)


@pytest.mark.parametrize("name", ["read", "readers", "out"])
def test_one_wrong_byte_fails_the_case(bench: Bench, name: str) -> None:
    figures = run_trial(bench, BY_NAME[name], CopyPeer(spoil_one_byte))
    assert {figure.row for figure in figures} == {row.name for row in BY_NAME[name].rows}
    assert all("is wrong" in error for error in errors(figures))


def test_wrong_last_byte_fails_only_its_own_row(bench: Bench) -> None:
    first, last = run_trial(bench, BY_NAME["probes"], CopyPeer(spoil_one_byte))
    assert first.error is None
    assert errors([last]) == ["probe-003.bin: its byte -1 is wrong"]


@pytest.mark.parametrize("name", ["write", "in", "patch", "tar", "git", "rsync"])
def test_byte_that_changes_after_settling_fails_the_case(bench: Bench, name: str) -> None:
    figures = run_trial(bench, BY_NAME[name], SpoilingLater())
    assert all("is wrong" in error for error in errors(figures))


def test_one_wrong_byte_of_a_random_read_fails(bench: Bench) -> None:
    def shift(folder: Path) -> None:
        data = (folder / "big.bin").read_bytes()
        (folder / "big.bin").write_bytes(data[1:] + data[:1])

    (error,) = errors(run_trial(bench, BY_NAME["random"], CopyPeer(shift)))
    assert "the 4 KiB from byte" in error


def test_file_missing_from_a_listing_fails_the_case(bench: Bench) -> None:
    forgetful = CopyPeer(lambda folder: min(folder.iterdir()).unlink())
    assert errors(run_trial(bench, BY_NAME["wide"], forgetful)) == ["./entry-000000: not listed"]


def test_case_that_never_settles_times_out_and_names_what_is_missing(bench: Bench) -> None:
    def disconnect(folder: Path) -> None:
        folder.unlink()
        folder.mkdir()

    bench.parameters = changed(timeout=0.3)
    figures = run_trial(bench, BY_NAME["write"], CopyPeer(disconnect))
    assert errors(figures) == ["timeout: not done after 0.3 s; big.bin: missing"] * 2


def test_hanging_program_is_ended_at_the_deadline(bench: Bench) -> None:
    def sleep(trial: Trial) -> None:
        trial.run(["sleep", "60"])

    bench.parameters = changed(timeout=0.3)
    started = time.monotonic()
    figures = run_trial(
        bench, Case("sleep", (Row("sleep", "s", "sleeps"),), sleep, None), CopyPeer()
    )
    assert errors(figures) == ["timeout: not done after 0.3 s"]
    assert time.monotonic() - started < 10


def test_peers_take_turns_and_another_begins_each_round(bench: Bench) -> None:
    order: list[str] = []

    class Named(CopyPeer):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def mount(self, place: Place, wait: float) -> Mount:
            order.append(self.name)
            return super().mount(place, wait)

    bench.parameters = changed(rounds=3)
    run_all(bench, [BY_NAME["random"]], [Named("a"), Named("b")], lambda _: None)
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_no_case_begins_after_the_time_budget(bench: Bench) -> None:
    bench.parameters = changed(budget=1e-9)
    results = run_all(bench, [BY_NAME["read"]], [CopyPeer()], lambda _: None)
    assert {result.figure.error for result in results} == {"not run: 1e-09 s were up"}
    table = Table(results)
    assert table.cell(table.lines[0], "copy").text == "not run"


# Links and parameters.


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("loopback", Link()),
        ("20", Link(20)),
        ("0.5", Link(0.5)),
        ("100,100", Link(100, 100)),
    ],
)
def test_link_description_is_parsed_and_printed(text: str, link: Link) -> None:
    assert parse_link(text) == link
    assert link.text == text


@pytest.mark.parametrize("text", ["", "0", "-1", "20,", "20,0", "20,1,2", "fast", "20 ms"])
def test_malformed_link_description_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="no such link"):
        parse_link(text)


def test_lane_delays_and_paces_packets_and_keeps_their_order() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    out, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there, out, end:
        there.setblocking(False)
        lane = Lane(there.fileno(), out.fileno(), delay=0.5, rate=1000)
        here.send(b"a" * 100)
        here.send(b"b" * 100)
        lane.take(now=10.0)
        assert lane.give(now=10.59) == pytest.approx(10.6)
        assert lane.give(now=10.61) == pytest.approx(10.7)
        assert lane.give(now=10.71) is None
        assert [end.recv(1000)[:1] for _ in range(2)] == [b"a", b"b"]


# The tables.


def result(peer: str, row: str, number: int, seconds: float, amount: float = 100) -> Result:
    return Result(row, peer, number, Figure(row, amount, seconds, settled=seconds * 2))


def failure(peer: str, row: str, number: int) -> Result:
    return Result(row, peer, number, Figure(row, error="no"))


RESULTS = [
    *(result("ftpfs-fusepy", "write", number, time) for number, time in enumerate((1, 4, 2))),
    *(result("rclone-off", "write", number, 4) for number in range(3)),
    *(result("rclone-full", "write", number, 1) for number in range(2)),
    failure("rclone-full", "write", 2),
    *(result("curl", "write", number, 0.1) for number in range(3)),
]


def test_table_shows_medians_and_ranges() -> None:
    table = Table(RESULTS)
    returned, settled = table.lines
    assert table.cell(returned, "ftpfs-fusepy").text == "50 (25..100)"
    assert table.cell(settled, "ftpfs-fusepy").text == "25 (12.5..50)"


def test_failed_round_fails_the_cell_and_says_why() -> None:
    table = Table(RESULTS)
    cell = table.cell(table.lines[0], "rclone-full")
    assert (cell.text, cell.error) == ("failed", "no (1 of 3 rounds)")
    assert "- [1] no (1 of 3 rounds)" in report.times(table)


def test_ratio_is_to_the_best_working_mount_and_not_to_the_ceiling() -> None:
    table = Table(RESULTS)
    line = table.lines[0]
    assert table.best(line) == ("rclone-off", 25)
    assert table.ratio(line, "ftpfs-fusepy") == 2


@pytest.mark.parametrize(("unit", "value"), [("ms", 20), ("s", 0.02), ("files/s", 50)])
def test_ratio_is_two_when_twice_as_fast_in_every_unit(unit: str, value: float) -> None:
    line = Line(Row("x", unit, "x"))  # type: ignore[arg-type]
    fast, slow = Figure("x", 100, seconds=2.0), Figure("x", 100, seconds=4.0)
    one, other = line.value(fast), line.value(slow)
    assert one == value
    assert other is not None
    assert line.faster(one, other) == 2


RUN = Run(
    PARAMETERS, {"cpu": "one"}, {"rclone-off": "1"}, (*RESULTS, failure("ftpfs-fusepy", "read", 0))
)


def test_run_is_the_same_after_its_json_is_read() -> None:
    assert Run.from_json(RUN.to_json()) == RUN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parameters": {}}'])
def test_json_that_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        Run.from_json(text)


def test_chart_is_xml_and_shows_failed_peers() -> None:
    drawn = ElementTree.fromstring(chart.draw(RUN))
    said = "".join(drawn.itertext())
    assert "one big file, written: settled" in said
    assert "failed:" in said


def test_section_of_a_page_is_replaced_and_the_rest_is_kept() -> None:
    page = report.replace_section("# Title\n", "one", "first")
    page = report.replace_section(page, "two", "second")
    page = report.replace_section(page, "one", "third")
    assert "first" not in page
    for part in ("# Title", "third", "second"):
        assert page.count(part) == 1
    assert report.replace_section(page, "one", "third") == page


# For real.


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("drops page caches, which takes root")


def test_tap_counts_commands_that_reach_the_server(start_server: StartServer) -> None:
    needs_root()
    server = start_server("pyftpdlib")
    with Tap("lo", server.port) as tap:
        before = tap.seen()
        with ftplib.FTP() as ftp:
            ftp.connect(server.host, server.port)
            ftp.login(server.user, server.password)
            ftp.nlst()
            # Two in one segment, one in two segments.
            assert ftp.sock
            ftp.sock.sendall(b"NOOP\r\nNOOP\r\nNO")
            time.sleep(0.05)
            ftp.sock.sendall(b"OP\r\n")
            for _ in range(3):
                ftp.voidresp()
            ftp.quit()
        seen = tap.seen()
    assert before is not None
    assert seen is not None
    assert before.commands == before.controls == 0
    assert seen.controls == 1
    assert seen.data == 1
    assert seen.verbs["NOOP"] == 3
    assert seen.verbs.keys() >= {"USER", "PASS", "NLST", "QUIT"}


@pytest.mark.parametrize("link", ["loopback", "5"])
def test_benchmark_runs_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    needs_root()
    words = ["--quick", "--only", "probes", "--peers", "ftpfs-fusepy", "--link", link]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run = Run.from_json((tmp_path / "run.json").read_text())
    assert [result.figure.error for result in run.results] == [None, None]
    for found in run.results:
        assert found.figure.commands
        assert found.figure.peak
        assert "USER" in found.figure.early
    assert "first byte of a cold file" in capsys.readouterr().out
    assert not Path(f"/run/netns/ftpfs-bench-{os.getpid()}").exists()
    assert main(["--repeat", str(tmp_path / "run.json"), "--out", str(tmp_path / "again")]) == 0
    again = Run.from_json((tmp_path / "again.json").read_text())
    assert again.parameters == run.parameters


def test_tools_without_a_mount_do_each_case_for_real(tmp_path: Path) -> None:
    needs_root()
    words = ["--commands", "--quick", "--big", "2", "--peers", "ftpfs-commands,curl"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run = Run.from_json((tmp_path / "run.json").read_text())
    assert [result.figure.error for result in run.results] == [None] * len(run.results)
    rows = {(result.peer, result.figure.row) for result in run.results}
    names = {case.name for case in COMMANDS}
    assert rows == {
        *(("ftpfs-commands", name) for name in names),
        *(("curl", name) for name in names - {"mirror-again"}),
    }
    assert main(["--repeat", str(tmp_path / "run.json"), "--out", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize("case", ["read", "readers", "out"])
def test_hanging_peer_is_killed_and_unmounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The daemon is stopped, so that no read is answered until it is killed."""
    needs_root()
    held: list[Mount] = []
    mount_it = Peer.mount

    def mount_and_stop(self: Peer, place: Place, wait: float) -> Mount:
        mount = mount_it(self, place, 60)  # not this is what has a second
        mount._process.send_signal(signal.SIGSTOP)
        held.append(mount)
        return mount

    monkeypatch.setattr(Peer, "mount", mount_and_stop)
    words = ["--quick", "--only", case, "--peers", "ftpfs-fusepy", "--timeout", "1"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run = Run.from_json((tmp_path / "run.json").read_text())
    assert {found.figure.error for found in run.results} == {"timeout: not done after 1 s"}
    assert held[0]._process.returncode == -signal.SIGKILL
    assert str(held[0].here) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    needs_root()
    words = ["--link", "5", "--peers", "ftpfs-fusepy", "--only", "wide"]
    command = [sys.executable, "-m", "scripts.benchmark", *words, "--out", str(tmp_path / "run")]
    run = subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    until(lambda: mounted_by(run.pid), 60)
    here = mounted_by(run.pid)[0]
    run.send_signal(number)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 128 + number, said
    assert here not in Path("/proc/self/mounts").read_text()
    assert not Path(here).exists()
    assert not Path(f"/run/netns/ftpfs-bench-{run.pid}").exists()


def mounted_by(pid: int) -> list[str]:
    """Where child processes of this one have mounted something, by their command lines."""
    table = Path("/proc/self/mounts").read_text()
    points = [line.split()[1] for line in table.splitlines() if " fuse.ftpfs " in line]
    lines = []
    with contextlib.suppress(FileNotFoundError):  # a child has just ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            lines.append(Path(f"/proc/{child}/cmdline").read_text())
    return [point for point in points if any(point in line for line in lines)]
