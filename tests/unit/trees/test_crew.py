"""Threads that work off the tasks of a tree."""

from __future__ import annotations

import functools
import threading

import pytest

from ftpfs.trees.crew import Crew, Task


def test_tasks_that_tasks_add_are_done_before_the_end() -> None:
    crew = Crew(3, "test")
    done: list[tuple[int, int]] = []

    def folder(level: int) -> None:
        for number in range(3):
            crew.add_files([functools.partial(done.append, (level, number))])
        if level < 5:
            crew.add_folder(lambda: folder(level + 1))
            crew.add_folder(lambda: folder(5))

    crew.add_folder(lambda: folder(0))
    crew.start()
    assert crew.wait(10)
    assert crew.wait(10)
    assert len(done) == 3 * (6 + 5)


def test_crew_without_a_task_ends_at_once() -> None:
    crew = Crew(4, "test")
    crew.start()
    assert crew.wait(10)


def test_few_files_wait_although_there_are_many_folders() -> None:
    """The memory for a tree of a million files stays bounded."""
    crew, most, lock = Crew(2, "test"), 0, threading.Lock()
    waiting = 0

    def file() -> None:
        nonlocal waiting
        with lock:
            waiting -= 1

    def folder() -> None:
        nonlocal waiting, most
        with lock:
            waiting += 10
            most = max(most, waiting)
        crew.add_files([file] * 10)

    for _ in range(1000):
        crew.add_folder(folder)
    crew.start()
    assert crew.wait(30)
    assert most < 2 + 2 * 10 + 10


def test_folder_that_was_found_last_is_listed_first() -> None:
    crew, order = Crew(1, "test"), []

    def folder(name: str, inside: list[Task]) -> None:
        order.append(name)
        for each in inside:
            crew.add_folder(each)

    def deep(name: str) -> Task:
        return functools.partial(folder, name, [])

    crew.add_folder(functools.partial(folder, "b", [deep("b1"), deep("b2")]))
    crew.add_folder(functools.partial(folder, "a", [deep("a1"), deep("a2")]))
    crew.start()
    assert crew.wait(10)
    assert order == ["a", "a2", "a1", "b", "b2", "b1"]


def test_stop_lets_running_tasks_end_and_begins_no_other() -> None:
    crew, began, go_on, done = Crew(1, "test"), threading.Event(), threading.Event(), []

    def first() -> None:
        began.set()
        go_on.wait(10)
        done.append("first")
        crew.add_files([lambda: done.append("third")])

    crew.add_files([first, lambda: done.append("second")])
    crew.start()
    assert began.wait(10)
    crew.stop()
    assert not crew.wait(0)
    go_on.set()
    assert crew.wait(10)
    assert done == ["first"]


def test_task_that_fails_unexpectedly_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    crew, done = Crew(1, "test"), []
    crew.add_files([lambda: 1 / 0, lambda: done.append(1)])  # type: ignore[list-item]
    crew.start()
    assert crew.wait(10)
    assert done == [1]
    assert "unexpected error" in caplog.text
