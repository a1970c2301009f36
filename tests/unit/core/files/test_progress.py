"""How far a file is on its way, as tables, and against a model of single writes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ftpfs.core.files.progress import Progress, Stage

Step = Callable[[Progress], object]

ONE, OTHER = 1, 2  # handles


def write(progress: Progress) -> None:
    progress.write(ONE)


def write_other(progress: Progress) -> None:
    progress.write(OTHER)


def close(progress: Progress) -> None:
    """As a close of the handle does it."""
    progress.commit(0.0)
    if progress.end_writing(ONE):
        progress.make_due()


def close_a_copy(progress: Progress) -> None:
    progress.commit(0.0)


def demand(progress: Progress) -> None:
    progress.commit(0.0)
    progress.demand()
    progress.make_due()


def arrive(progress: Progress) -> None:
    progress.arrive(progress.writes)


def delete(progress: Progress) -> None:
    progress.is_deleted = True


@pytest.mark.parametrize(
    ("steps", "stage", "is_held"),
    [
        ([], Stage.CLEAN, False),
        ([write], Stage.WRITTEN, True),
        ([write, close_a_copy], Stage.COMMITTED, True),
        ([write, close], Stage.DUE, False),
        ([write, close, arrive], Stage.CLEAN, False),
        ([write, write_other, close], Stage.COMMITTED, True),
        ([write, demand], Stage.DUE, False),
        ([write, demand, write], Stage.DUE, False),
        ([write, close, write], Stage.DUE, True),
        ([write, demand, arrive, write], Stage.WRITTEN, True),
        ([write, demand, arrive, write, close_a_copy], Stage.COMMITTED, True),
        ([write, close, delete], Stage.DELETED, False),
    ],
)
def test_stage_follows_writes_closes_and_demands(
    steps: list[Step], stage: Stage, is_held: bool
) -> None:
    progress = Progress(is_new=False)
    for step in steps:
        step(progress)
    shown = progress.snapshot()
    assert (shown.stage, shown.is_held) == (stage, is_held)
    assert progress.is_to_be_sent == (stage is Stage.DUE and not is_held)


def test_new_file_is_dirty_before_its_first_write() -> None:
    assert Progress(is_new=True).stage is Stage.WRITTEN
    assert Progress(is_new=False).stage is Stage.CLEAN


def test_deleted_file_stays_dirty() -> None:
    progress = Progress(is_new=True)
    delete(progress)
    assert progress.is_dirty
    close(progress)
    assert not progress.is_to_be_sent


def test_restored_file_is_due() -> None:
    progress = Progress(is_new=False)
    progress.restore(0, since=5.0)
    assert (progress.stage, progress.since) == (Stage.DUE, 5.0)


def test_time_of_the_first_commit_counts_until_the_file_is_clean() -> None:
    progress = Progress(is_new=False)
    write(progress)
    progress.commit(1.0)
    write(progress)
    progress.commit(2.0)
    assert progress.since == 1.0
    arrive(progress)
    write(progress)
    progress.commit(3.0)
    assert progress.since == 3.0


def test_upload_of_older_content_leaves_the_file_due() -> None:
    progress = Progress(is_new=False)
    write(progress)
    captured = progress.writes
    write(progress)
    close(progress)
    progress.arrive(captured)
    assert progress.stage is Stage.DUE


def test_content_becomes_due_once() -> None:
    progress = Progress(is_new=False)
    write(progress)
    progress.commit(0.0)
    assert progress.make_due()
    assert not progress.make_due()


@pytest.mark.parametrize(("waiting", "is_held"), [(0, True), (1, False)])
def test_first_writer_after_a_demand_is_held_back_unless_somebody_waits(
    waiting: int, is_held: bool
) -> None:
    """So a file whose upload was demanded, and failed, is not sent in the middle of a write."""
    progress = Progress(is_new=True)
    demand(progress)
    progress.waiting = waiting
    write(progress)
    assert progress.is_held is is_held


def test_handle_that_wrote_at_an_offset_counts_until_it_is_closed() -> None:
    progress = Progress(is_new=False)
    progress.place(ONE)
    write(progress)
    assert progress.is_placed
    close(progress)
    assert not progress.is_placed


def test_other_writer_is_another_handle() -> None:
    progress = Progress(is_new=False)
    progress.begin_writing(ONE)
    assert not progress.has_other_writer(ONE)
    assert progress.has_other_writer(OTHER)


class ProgressModel(RuleBasedStateMachine):
    """The model keeps, of each write, how far it has come."""

    handles = st.sampled_from([ONE, OTHER])

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress(is_new=False)
        self.committed: list[bool] = []  # of each write
        self.due: list[bool] = []
        self.sent: list[bool] = []
        self.writers: set[int] = set()
        self.captured: int | None = None

    @rule(handle=handles)
    def write(self, handle: int) -> None:
        self.progress.write(handle)
        self.writers.add(handle)
        self.committed.append(False)
        self.due.append(False)
        self.sent.append(False)

    @rule()
    def commit(self) -> None:
        if self.progress.is_dirty:
            self.progress.commit(0.0)
            self.committed = [True] * len(self.committed)

    @rule(handle=handles)
    def close(self, handle: int) -> None:
        self.commit()
        if self.progress.end_writing(handle):
            self._make_due()
        self.writers.discard(handle)

    @rule()
    def demand(self) -> None:
        self.commit()
        self.progress.demand()
        self._make_due()
        assert not self.progress.is_held or not self.progress.is_dirty

    def _make_due(self) -> None:
        news = any(
            committed and not (due or sent)
            for committed, due, sent in zip(self.committed, self.due, self.sent, strict=True)
        )
        assert self.progress.make_due() is news
        if news:
            self.due = list(self.committed)

    @precondition(lambda self: self.captured is None and not self.progress.is_held)
    @rule()
    def capture(self) -> None:
        self.captured = len(self.sent)

    @precondition(lambda self: self.captured is not None)
    @rule()
    def arrive(self) -> None:
        assert self.captured is not None
        self.progress.arrive(self.captured)
        self.sent = [index < self.captured for index in range(len(self.sent))]
        self.captured = None

    @invariant()
    def agrees(self) -> None:
        shown = self.progress.snapshot()
        unsent = [not sent for sent in self.sent]
        assert shown.is_dirty is any(unsent)
        assert shown.writes == len(self.sent)
        is_due = any(due and new for due, new in zip(self.due, unsent, strict=True))
        is_committed = any(done and new for done, new in zip(self.committed, unsent, strict=True))
        wanted = Stage.WRITTEN if any(unsent) else Stage.CLEAN
        wanted = Stage.COMMITTED if is_committed else wanted
        assert shown.stage is (Stage.DUE if is_due else wanted)
        if not self.writers:
            assert not shown.is_held


ProgressModel.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestProgress = ProgressModel.TestCase
