"""What stands in front of DTLS datagrams, and the messages of the link."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holloway.actors.config import model
from holloway.protocols import dtls_wire as wire
from holloway.protocols.arrivals import Arrival, lone
from holloway.protocols.demux import Demux
from holloway.protocols.keys import StaticKey
from holloway.protocols.network_settings import Backend

NUMBERS = st.integers(0, 2**64 - 1)
SOURCE = ("192.0.2.1", 1099)


@given(NUMBERS, st.binary(min_size=13, max_size=100))
def test_a_datagram_says_whose_it_is(number: int, record: bytes) -> None:
    datagram = wire.prefixed(number, record)
    assert wire.association_of(datagram) == number
    assert datagram[wire.PREFIX_BYTES :] == record
    assert datagram[:4] == b"\xd7\0\0\0"


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(data: bytes) -> None:
    wire.is_handshake(data)
    wire.is_client_hello(data)
    wire.first_record_bytes(data)
    wire.sequence_of(data)
    message = wire.read_message(data)
    assert message is None or data == wire.message(*message)


@given(st.sampled_from(wire.LinkMessage), NUMBERS)
def test_messages_of_the_link_are_no_packets(kind: wire.LinkMessage, number: int) -> None:
    text = wire.message(kind, number)
    assert wire.read_message(text) == (kind, number)
    assert text[0] < wire.FIRST_OF_PACKETS
    assert wire.read_message(text + b"x") is None


def test_full_packets_fit_into_1500_bytes_over_both_families() -> None:
    assert wire.DTLS_MTU + wire.OVERHEAD_BYTES + 8 + 40 <= 1500
    assert model.DTLS_MTU == wire.DTLS_MTU


def test_the_words_of_the_configuration_are_those_of_the_settings() -> None:
    assert tuple(each.value for each in Backend) == model.BACKENDS


def test_datagrams_in_a_run_are_sorted_each_by_itself() -> None:
    demux: Demux[str] = Demux(StaticKey(bytes([1]) * 32), secret=bytes(32), entropy=bytes)
    first, second = (wire.prefixed(number, bytes(30)) for number in (1, 2))
    other = b"\x05\0\0\0".ljust(len(first), b"x")
    found = demux.sort([Arrival(SOURCE, first + second + other, len(first))], 0.0)
    assert found.dtls == [lone(first, SOURCE), lone(second, SOURCE)]
    assert sum(demux.drops.values()) == 1
