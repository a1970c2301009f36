"""`ftpfs get -r`, `put -r` and `mirror`, as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ftpfs.commands import embedded_server
from tests.support.waiting import until
from tests.unit.commands.processes import ftpfs_process, read_terminal


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server's URL (with a slash at its end) and its folder."""
    folder = tmp_path_factory.mktemp("served")
    with embedded_server.running(str(folder), "--write") as url:
        yield url, folder


@pytest.fixture
def there(served: tuple[str, Path], request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A new folder on the server: its URL (with a slash at its end), and its place."""
    url, folder = served
    name = "t" + str(len(list(folder.iterdir())))
    (folder / name).mkdir()
    return f"{url}{name}/", folder / name


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a tree of three files."""
    plant(tmp_path / "tree", "a", "sub/b", "sub/c")
    return tmp_path


def plant(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
        os.utime(folder / name, (1_600_000_000, 1_600_000_000))


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run that succeeds."""
    done = ftpfs_process(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done


class TestCopy:
    def test_new_name_becomes_the_copy_and_a_folder_gets_it_inside(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        """The rule of `cp -r`."""
        url, disk = there
        for _ in range(2):
            run("put", "-r", str(here / "tree"), f"{url}copy")
        assert files(disk) == [
            *("copy/a", "copy/sub/b", "copy/sub/c"),
            *("copy/tree/a", "copy/tree/sub/b", "copy/tree/sub/c"),
        ]
        for _ in range(2):
            run("get", "-r", f"{url}copy/tree", str(here / "back"))
        assert files(here / "back") == [
            *("a", "sub/b", "sub/c"),
            *("tree/a", "tree/sub/b", "tree/sub/c"),
        ]
        assert (here / "back/sub/b").stat().st_mtime == 1_600_000_000

    def test_several_sources_go_into_a_folder(self, there: tuple[str, Path], here: Path) -> None:
        url, disk = there
        run("put", "-r", str(here / "tree/a"), str(here / "tree/sub"), url)
        assert files(disk) == ["a", "sub/b", "sub/c"]
        (here / "into").mkdir()
        run("get", "-r", f"{url}a", f"{url}sub", str(here / "into"))
        assert files(here / "into") == ["a", "sub/b", "sub/c"]

    def test_get_and_put_keep_to_their_limits(self, there: tuple[str, Path], here: Path) -> None:
        url, disk = there
        for number in range(8):
            (here / f"tree/f{number}").write_bytes(bytes(256 << 10))
        began = time.monotonic()
        run("put", "-r", "--limit-up", "1M", str(here / "tree"), f"{url}copy")
        assert time.monotonic() - began > 1.7
        began = time.monotonic()
        run("get", "-r", "--limit-down", "00:00-24:00=1M", f"{url}copy", str(here / "back"))
        assert time.monotonic() - began > 1.7
        assert files(here / "back") == files(disk / "copy")

    def test_several_sources_need_a_folder(self, there: tuple[str, Path], here: Path) -> None:
        url, disk = there
        done = ftpfs_process("put", str(here / "tree/a"), str(here / "tree/sub/b"), f"{url}none")
        assert (done.returncode, files(disk)) == (1, [])
        assert "is not a folder" in done.stderr

    def test_folder_without_r_is_left_out_and_files_beside_it_are_copied(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        done = ftpfs_process("put", str(here / "tree/a"), str(here / "tree/sub"), url)
        assert (done.returncode, files(disk)) == (1, ["a"])
        assert "-r copies folders" in done.stderr

    def test_wildcards_match_names_on_the_server(self, there: tuple[str, Path], here: Path) -> None:
        url, disk = there
        plant(disk, "a.csv", "b.csv", "c.txt", "x [1].jpg")
        (here / "into").mkdir()
        run("get", f"{url}*.csv", str(here / "into"))
        run("get", f"{url}x [1].jpg", str(here / "into"))
        assert files(here / "into") == ["a.csv", "b.csv", "x [1].jpg"]
        done = ftpfs_process("get", f"{url}*.none", str(here / "into"))
        assert done.returncode == 1
        assert "no such file" in done.stderr

    def test_put_to_a_folder_that_exists_goes_into_it(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        (disk / "sub/a").mkdir(parents=True)
        (disk / "sub/a/full").touch()
        run("put", str(here / "tree/sub/b"), f"{url}sub")
        assert files(disk) == ["sub/a/full", "sub/b"]
        done = ftpfs_process("put", str(here / "tree/a"), f"{url}sub")
        assert (done.returncode, files(disk)) == (1, ["sub/a/full", "sub/b"])
        assert "is a folder" in done.stderr

    def test_end_names_each_failure_and_its_reason(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        plant(disk, "copy/sub")  # a file where a folder should be
        (here / "tree/line\nbreak").touch()
        (disk / "copy/tree").mkdir()
        plant(disk, "copy/tree/sub")
        done = ftpfs_process("put", "-r", str(here / "tree"), f"{url}copy")
        assert done.returncode == 1
        assert "tree/sub: a file is in the way of a folder\n" in done.stderr
        assert "line\\nbreak: FTP cannot carry a name" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("ftpfs: 2 failed, 1 copied")
        assert (disk / "copy/tree/a").exists()

    def test_tree_copied_into_itself_has_an_end(self, there: tuple[str, Path]) -> None:
        url, disk = there
        plant(disk, "a", "into/b")
        done = ftpfs_process("get", "-r", url, str(disk / "into"))
        assert done.returncode == 1
        assert "levels deep" in done.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ["get", "-r", "ftp://host/a", "-"],
            ["get", "--text", "ftp://host/a", "ftp://host/b", "."],
            ["get", "ftp://one/a", "ftp://other/b", "."],
            ["put", "-r", "-", "ftp://host/"],
            ["put", "a", "-", "ftp://host/"],
            ["put", "ftp://host/"],
        ],
    )
    def test_what_cannot_be_meant_is_refused_before_the_server_is_asked(
        self, arguments: list[str]
    ) -> None:
        assert ftpfs_process(*arguments).returncode == 2


class TestMirror:
    def test_both_directions_copy_what_was_changed(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        run("mirror", str(here / "tree"), f"{url}new/web")
        assert files(disk) == ["new/web/a", "new/web/sub/b", "new/web/sub/c"]
        run("mirror", f"{url}new/web", str(here / "new/back"))
        assert files(here / "new/back") == files(here / "tree")
        (here / "tree/a").write_text("longer than it was before")
        sums = json.loads(
            run("mirror", "--json", str(here / "tree"), f"{url}new/web").stdout.splitlines()[-1]
        )
        assert (sums["copied"], sums["same"], sums["failed"]) == (1, 2, 0)
        assert (disk / "new/web/a").read_text() == "longer than it was before"

    def test_delete_removes_what_the_source_does_not_have(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        plant(disk, "a", "old/x", "old/deep/y", "sub/z", "keep.log", "old2/keep.log")
        run("mirror", "--delete", "--yes", "--exclude", "*.log", str(here / "tree"), url)
        assert files(disk) == ["a", "keep.log", "old2/keep.log", "sub/b", "sub/c"]
        assert not (disk / "old").exists()

    def test_nothing_is_deleted_if_a_folder_was_not_listed(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        plant(disk, "old")
        for level in range(102):
            (here / "tree/sub" / "/".join("d" * level)).mkdir(exist_ok=True)
        done = ftpfs_process("mirror", "--delete", "--yes", str(here / "tree"), url)
        assert done.returncode == 1
        assert "nothing is deleted: not every folder was listed" in done.stderr
        assert (disk / "old").exists()
        assert (disk / "a").exists()

    def test_nothing_is_deleted_without_an_answer(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        plant(disk, "old")
        done = ftpfs_process("mirror", "--delete", str(here / "tree"), url)
        assert (done.returncode, files(disk)) == (2, ["old"])
        assert "--yes" in done.stderr

    @pytest.mark.parametrize(("answer", "left"), [(b"n\n", ["old"]), (b"y\n", [])])
    def test_question_on_a_terminal_decides_about_deleting(
        self, there: tuple[str, Path], here: Path, answer: bytes, left: list[str]
    ) -> None:
        url, disk = there
        plant(disk, "old")
        (here / "none").mkdir()
        command, environ = embedded_server.this_program()
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*command, "mirror", "--delete", str(here / "none"), url],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environ, "TERM": "dumb"},
        ) as process:
            os.close(theirs)
            shown = b""
            while b"[y/N]" not in shown:
                more = read_terminal(ours)
                assert more, shown
                shown += more
            assert b"/old" in shown
            os.write(ours, answer)
            while read_terminal(ours):
                pass
        os.close(ours)
        assert process.returncode == 0
        assert files(disk) == left

    def test_dry_run_prints_the_plan_and_changes_nothing(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        plant(disk, "old", "a")
        arguments = ["mirror", "-n", "--delete", str(here / "tree"), url]
        lines = run(*arguments).stdout.splitlines()
        path = "/" + disk.name
        steps = {"make sub", "copy sub/b", "copy sub/c", "delete old"}
        assert set(lines) == {step.replace(" ", f" {path}/", 1) for step in steps}
        printed = [json.loads(line) for line in run(*arguments, "--json").stdout.splitlines()]
        assert {(each["action"], each.get("path"), each.get("size")) for each in printed} == {
            ("make", f"{path}/sub", None),
            ("copy", f"{path}/sub/b", 16),
            ("copy", f"{path}/sub/c", 16),
            ("delete", f"{path}/old", None),
            ("end", None, None),
        }
        assert files(disk) == ["a", "old"]

    def test_filters_choose_files(self, there: tuple[str, Path], here: Path) -> None:
        url, disk = there
        plant(here / "tree", "x.jpg", "sub/y.jpg", "draft.jpg", "build/z.jpg")
        (here / "ignored").write_text("# built\nbuild/\n")
        run(
            *("mirror", "--include", "*.jpg", "--exclude", "draft*"),
            *("--exclude-from", str(here / "ignored"), str(here / "tree"), url),
        )
        assert files(disk) == ["sub/y.jpg", "x.jpg"]
        (here / "tree/a").touch()
        run("mirror", "--newer-than", "1h", "--exclude", "*.jpg", str(here / "tree"), f"{url}n")
        assert files(disk / "n") == ["a"]

    @pytest.mark.parametrize(
        ("places", "words"),
        [
            (["one", "two"], "which of the two is on this machine"),
            (["./one", "/two"], "both folders are on this machine"),
            (["ftp://a/", "ftp://b/"], "both folders are on a server"),
            (["--newer-than", "soon", "./a", "ftp://b/"], "--newer-than: expected a time"),
            (["--exclude", "!", "./a", "ftp://b/"], "not a pattern"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, places: list[str], words: str) -> None:
        done = ftpfs_process("mirror", *places)
        assert words in done.stderr
        assert done.returncode in (1, 2)

    def test_named_server_is_known_from_a_folder_of_that_form(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        (here / "config.toml").write_text(f'[servers.nas]\nurl = "{url}"\n')
        run("mirror", "--config", str(here / "config.toml"), str(here / "tree"), "nas/web")
        assert files(disk / "web") == files(here / "tree")

    def test_source_that_is_missing_or_a_file_changes_nothing(
        self, there: tuple[str, Path], here: Path
    ) -> None:
        url, disk = there
        plant(disk, "old")
        for source in ("none", "tree/a"):
            done = ftpfs_process("mirror", "--delete", "-y", str(here / source), url)
            assert (done.returncode, files(disk)) == (1, ["old"])


def test_next_run_deletes_what_a_killed_one_left(there: tuple[str, Path], tmp_path: Path) -> None:
    url, disk = there
    (tmp_path / "tree/sub").mkdir(parents=True)
    with (tmp_path / "tree/sub/large").open("wb") as file:
        file.truncate(2 << 30)
    (tmp_path / "tree/small").touch()
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    command, environ = embedded_server.this_program()
    with subprocess.Popen(
        [*command, "put", "-r", str(tmp_path / "tree"), f"{url}copy"], env={**environ, **state}
    ) as killed:
        until(lambda: any(name.startswith("copy/sub/.ftpfs-") for name in files(disk)))
        killed.kill()
    left = files(disk)
    assert [name for name in left if "/.ftpfs-" in name]

    def cleans_up() -> bool:
        # The server may not have noticed yet that nobody sends any more.
        done = ftpfs_process("put", str(tmp_path / "tree/small"), f"{url}other", environ=state)
        assert done.returncode == 0, done.stderr
        return not [name for name in files(disk) if "/.ftpfs-" in name]

    until(cleans_up)


class TestInterrupted:
    """Ctrl-C and SIGTERM while many files are on their way."""

    @pytest.fixture
    def many(self, tmp_path: Path) -> Path:
        for number in range(1500):
            folder = tmp_path / "many" / str(number % 30)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(number)).write_bytes(b"x" * 2000)
        return tmp_path / "many"

    @pytest.mark.parametrize(
        ("signals", "code"),
        [
            ([signal.SIGINT], 130),
            ([signal.SIGINT, signal.SIGINT], 130),
            ([signal.SIGTERM], 143),
            ([signal.SIGINT, signal.SIGTERM], 143),
        ],
        ids=["once", "twice", "term", "both"],
    )
    @pytest.mark.parametrize("way", ["there", "here"])
    def test_whole_files_stay_and_another_run_goes_on(
        self,
        there: tuple[str, Path],
        many: Path,
        tmp_path: Path,
        signals: Sequence[signal.Signals],
        code: int,
        way: str,
    ) -> None:
        url, disk = there
        if way == "there":
            arguments, target = [str(many), f"{url}copy"], disk / "copy"
        else:
            many.rename(disk / "many")
            arguments, target = [f"{url}many", str(tmp_path / "copy")], tmp_path / "copy"
        command, environ = embedded_server.this_program()
        state = {"XDG_STATE_HOME": str(tmp_path / "state")}
        with subprocess.Popen(
            [*command, "mirror", "--jobs", "2", *arguments],
            stderr=subprocess.PIPE,
            env={**environ, **state},
        ) as process:
            assert process.stderr
            until(lambda: target.exists() and len(files(target)) > 40)
            for number, each in enumerate(signals):
                if number:
                    assert process.stderr.readline()  # the first one was heard
                process.send_signal(each)
            told = process.stderr.read().decode()
        # A second signal that comes when Python has restored the defaults ends the process.
        ended_by = [-signals[1]] if signals[1:] else []
        assert process.returncode in [code, *ended_by], told
        arrived = [path for path in target.rglob("*") if not path.is_dir()]
        assert 20 < len(arrived) < 1500
        assert {path.stat().st_size for path in arrived} == {2000}
        assert not [path for path in arrived if path.name.startswith(".ftpfs-")]
        source = many if many.exists() else disk / "many"
        missing = [
            path
            for path in source.rglob("*")
            if path.is_file() and not (target / path.relative_to(source)).exists()
        ]
        for path in missing[50:]:  # a few show that it goes on
            path.unlink()
        done = ftpfs_process("mirror", "--json", *arguments, environ=state)
        sums = json.loads(done.stdout.splitlines()[-1])
        assert (sums["same"], sums["copied"]) == (len(arrived), len(missing[:50]))
        assert done.returncode == 0
        notes = tmp_path / "state/ftpfs/puts"
        assert not notes.exists() or list(notes.iterdir()) == []
