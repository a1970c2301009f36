"""How many pipelined questions are in flight: no server, no socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftpfs.ftp.connections.questions import Questions


@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    window=st.integers(1, 200),
)
def test_each_question_is_sent_once_in_order_within_the_window(
    lengths: list[int], window: int
) -> None:
    wire = [bytes([number]) * length for number, length in enumerate(lengths)]
    questions = Questions(wire, window)
    sent = b""
    in_flight = 0
    for expected in wire:
        batch = questions.next_batch()
        sent += batch
        in_flight += len(batch)
        assert in_flight < window + 40, "at most one question begins before the window is full"
        assert questions.open, "something to wait for"
        assert questions.answered() is expected
        in_flight -= len(expected)
    assert questions.done
    assert sent == b"".join(wire)


def test_next_batch_waits_until_half_of_the_window_is_answered() -> None:
    questions = Questions([b"x" * 10] * 20, 100)
    assert len(questions.next_batch()) == 100
    for _ in range(4):
        questions.answered()
        assert questions.next_batch() == b""
    questions.answered()
    assert len(questions.next_batch()) == 50
    assert questions.open == 10


def test_kind_of_next_question_is_known() -> None:
    questions = Questions([b"MDTM /a\r\n", b"NOOP\r\n"], 100)
    questions.next_batch()
    assert questions.next_kind == "MDTM"
    questions.answered()
    assert questions.next_kind == "NOOP"
    assert not questions.done
