"""Which part of a file each stream receives: random runs against a plain model."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ftpfs.trees.pieces import LEAST_BYTES, Gaps, Piece, Pieces

SIZE = 16 * LEAST_BYTES


def gaps_of(bounds: list[int]) -> Gaps:
    """Pairs of sorted numbers."""
    bounds = sorted(set(bounds))
    return list(zip(bounds[::2], bounds[1::2], strict=False))


@given(
    st.lists(st.integers(0, SIZE), max_size=6),
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["take", "receive", "leave"])), max_size=60
    ),
    st.integers(1, LEAST_BYTES),
)
def test_each_missing_byte_is_received_once(
    bounds: list[int], moves: list[tuple[int, str]], chunk: int
) -> None:
    """Streams begin, receive and leave in any order; in the end, one stream finishes the file."""
    gaps = gaps_of(bounds)
    pieces = Pieces(SIZE, gaps)
    spans: list[tuple[int, int]] = []  # what each step received
    streams: dict[int, Piece] = {}

    def receive(piece: Piece, count: int) -> bool:
        room = min(count, pieces.room(piece))
        if not room or not pieces.claim(piece):
            return False
        spans.append((piece.position, piece.position + room))
        pieces.arrived(piece, room)
        return True

    for number, move in moves:
        piece = streams.get(number)
        if move == "take" and piece is None:
            if (taken := pieces.take()) is not None:
                streams[number] = taken
        elif piece is not None and (move == "leave" or not receive(piece, chunk)):
            pieces.give_back(streams.pop(number))
    for piece in streams.values():
        pieces.give_back(piece)
    assert sum(end - begin for begin, end in pieces.gaps()) == pieces.missing
    while (last := pieces.take()) is not None:
        while receive(last, SIZE):
            pass
        pieces.give_back(last)
    assert pieces.missing == 0
    joined = sorted(spans)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(joined))
    assert sum(end - begin for begin, end in spans) == sum(end - begin for begin, end in gaps)


def test_piece_that_has_not_begun_goes_back_to_the_stream_before_it() -> None:
    pieces = Pieces(SIZE, [(0, SIZE)])
    first, second = pieces.take(), pieces.take()
    assert first is not None
    assert second is not None
    while room := pieces.room(first):
        assert pieces.claim(first)
        pieces.arrived(first, room)
    assert pieces.missing == 0
    assert not pieces.claim(second)


def test_small_rest_is_not_divided() -> None:
    pieces = Pieces(SIZE, [(SIZE - 2 * LEAST_BYTES + 1, SIZE)])
    assert pieces.take() is not None
    assert pieces.take() is None
