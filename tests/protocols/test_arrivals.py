"""Arrivals: a run is the datagrams in it, whatever memory it lies in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.addresses import Address
from holloway.protocols.arrivals import SHAPES, Arrival, RunMemory, lone

HERE: Address = ("192.0.2.7", 1099)


@given(count=st.integers(1, 64), stride=st.integers(1, 100), last=st.integers(1, 100), is_view=st.booleans())
def test_a_run_is_its_datagrams_in_order(count: int, stride: int, last: int, is_view: bool) -> None:
    datagrams = [bytes((n,)) * stride for n in range(count)]
    datagrams[-1] = datagrams[-1][:last]
    data = b"".join(datagrams)
    run = Arrival(HERE, memoryview(data) if is_view else data, stride)
    assert run.datagrams() == datagrams
    assert all(type(datagram) is bytes for datagram in run.datagrams())
    assert run.datagram_count == count


def test_a_lone_datagram_is_a_run_of_one_even_when_empty() -> None:
    for datagram in (b"", b"x", bytes(1500)):
        arrival = lone(datagram, HERE)
        assert (arrival.source, arrival.stride) == (HERE, len(datagram))
        assert arrival.datagrams() == [datagram]
        assert arrival.datagram_count == 1


def test_what_is_kept_outlives_the_buffer_that_it_came_in() -> None:
    buffer = bytearray(b"abcdef")
    run = Arrival(HERE, memoryview(buffer), 4)
    kept = run.kept()
    buffer[:] = b"......"
    assert kept.datagrams() == [b"abcd", b"ef"]
    assert run.datagrams() == [b"....", b".."]
    assert kept.kept() is kept


@given(shapes=st.lists(st.tuples(st.integers(0, 300), st.integers(5, 100), st.integers(1, 64)), max_size=4 * SHAPES))
def test_memory_for_runs_gives_the_parts_that_are_in_it_now_whatever_it_was_asked_before(
    shapes: list[tuple[int, int, int]],
) -> None:
    memory = RunMemory(300 + 64 * 100)
    for turn, (at, stride, count) in enumerate(shapes):
        memory.view[:] = bytes((turn + place) % 251 for place in range(len(memory.view)))
        run = bytes(memory.view[at : at + stride * count])
        parts = memory.parts(at, stride, count, 4)
        assert [bytes(part) for part in parts] == [
            run[place + 4 : place + stride] for place in range(0, len(run), stride)
        ]


def test_memory_for_runs_keeps_few_shapes() -> None:
    memory = RunMemory(1000)
    first = memory.parts(0, 10, 3, 4)
    for count in range(1, SHAPES + 1):
        assert memory.parts(0, 10, 3, 4) is first
        memory.parts(0, 20, count, 4)
    assert memory.parts(0, 10, 3, 4) is not first
