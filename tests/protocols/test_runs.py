"""Runs of datagrams on their way out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holloway.protocols.runs import Run, flatten, lone_run


@given(st.binary(max_size=300), st.integers(1, 100), st.integers(0, 300))
def test_a_run_is_its_datagrams_back_to_back(data: bytes, stride: int, cut_at: int) -> None:
    run = Run((data[:cut_at], memoryview(data)[cut_at:]), stride, len(data))
    datagrams = run.datagrams()
    assert b"".join(datagrams) == data
    assert {len(datagram) for datagram in datagrams[:-1]} <= {stride}
    assert len(datagrams[-1]) <= max(stride, 0)
    assert run.datagram_count == (len(datagrams) if data else 0)


def test_a_lone_datagram_is_a_run_of_one_even_when_it_is_empty() -> None:
    for datagram in (b"", b"x", b"whole"):
        run = lone_run(datagram)
        assert run.datagrams() == [datagram]
        assert run.datagram_count == 1


def test_runs_are_flattened_in_order() -> None:
    assert flatten([lone_run(b"a"), Run((b"bbcc", b"d"), 2, 5), lone_run(b"")]) == [b"a", b"bb", b"cc", b"d", b""]
