"""The cases of `--commands`: files and trees that travel without a mount."""

from __future__ import annotations

import os
from pathlib import Path

from scripts.benchmark.data import MIB, compare_files, compare_trees, copy_tree
from scripts.benchmark.tools import CurlCommands, Tool
from scripts.benchmark.trial import Trial
from scripts.benchmark.workloads import Case, Row


def _tool(trial: Trial) -> Tool:
    assert isinstance(trial.peer, Tool)
    return trial.peer


def _get_tree(trial: Trial) -> None:
    with trial.timed("get-tree", trial.sizes.small):
        _tool(trial).get_tree(trial, trial.folder, trial.scratch / "out")
    compare_trees(trial.disk, trial.scratch / "out")


def _put_tree(trial: Trial) -> None:
    source = trial.master("small")
    with trial.timed("put-tree", trial.sizes.small):
        _tool(trial).put_tree(trial, source, f"{trial.folder}/in")
    compare_trees(source, trial.disk / "in")


def _mirror_again(trial: Trial) -> None:
    if isinstance(_tool(trial), CurlCommands):
        return
    here = trial.scratch / "again"
    copy_tree(trial.disk, here)
    with trial.timed("mirror-again", trial.sizes.tree):
        _tool(trial).mirror(trial, trial.folder, here)
    compare_trees(trial.disk, here)


def _get_file(trial: Trial) -> None:
    here = trial.scratch / "big.bin"
    with trial.timed("get-file", trial.sizes.big * MIB / 1e6):
        _tool(trial).get_file(trial, f"{trial.folder}/big.bin", here)
    _compare_and_delete(trial.disk / "big.bin", here)


def _put_file(trial: Trial) -> None:
    source = trial.master("big") / "big.bin"
    with trial.timed("put-file", trial.sizes.big * MIB / 1e6):
        _tool(trial).put_file(trial, source, f"{trial.folder}/big.bin")
    _compare_and_delete(source, trial.disk / "big.bin")


def _compare_and_delete(expected: Path, actual: Path) -> None:
    compare_files(expected, actual)
    os.unlink(actual)


def _no_mount(_trial: Trial) -> None:
    raise AssertionError("these cases have no mount")


COMMANDS: tuple[Case, ...] = (
    Case(
        "get-tree",
        (Row("get-tree", "files/s", "4 KiB files out, `get -r`"),),
        _no_mount,
        "small",
        straight=_get_tree,
    ),
    Case(
        "put-tree",
        (Row("put-tree", "files/s", "4 KiB files in, `put -r`"),),
        _no_mount,
        None,
        changes=True,
        straight=_put_tree,
    ),
    Case(
        "mirror-again",
        (Row("mirror-again", "files/s", "`mirror` of an unchanged tree"),),
        _no_mount,
        "tree",
        straight=_mirror_again,
    ),
    Case(
        "get-file",
        (Row("get-file", "MB/s", "one big file, `get`"),),
        _no_mount,
        "big",
        straight=_get_file,
    ),
    Case(
        "put-file",
        (Row("put-file", "MB/s", "one big file, `put`"),),
        _no_mount,
        None,
        changes=True,
        straight=_put_file,
    ),
)
