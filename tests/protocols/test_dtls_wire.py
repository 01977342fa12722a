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
    assert message is None or data.startswith(wire.message(*message))


def test_what_is_encrypted_is_no_hello_whatever_its_nonce_begins_with() -> None:
    hello = b"\x16\xfe\xfd\0\0" + bytes(6) + b"\0\1" + b"\1"
    encrypted = hello[:4] + b"\1" + hello[5:]
    assert (wire.is_client_hello(hello), wire.looks_like_hello(hello)) == (True, True)
    assert (wire.is_client_hello(encrypted), wire.looks_like_hello(encrypted)) == (False, True)
    assert not wire.looks_like_hello(wire.NO_RECORD + encrypted)


def test_records_are_told_apart_by_what_they_say_and_not_by_their_numbers() -> None:
    def record(kind: int, epoch: int, number: int, text: bytes) -> bytes:
        head = bytes([kind]) + b"\xfe\xfd" + epoch.to_bytes(2, "big") + number.to_bytes(6, "big")
        return head + len(text).to_bytes(2, "big") + text

    said = [record(22, 0, 1, b"one"), record(22, 0, 2, b"two"), record(20, 0, 3, b"\1"), record(22, 1, 0, b"sealed")]
    again = [record(22, 0, 4, b"one"), record(22, 0, 5, b"two"), record(20, 0, 6, b"\1"), record(22, 1, 1, b"anew")]
    assert list(wire.records_of(b"".join(said + again))) == said + again
    sayings = [wire.saying_of(each) for each in said]
    assert len(set(sayings)) == 4
    assert [wire.saying_of(each) for each in again] == sayings
    assert wire.saying_of(record(21, 1, 2, b"alert")) is None


@given(st.integers(0, 2**48 - 1), st.integers(wire.MIN_PATH_PROBE_BYTES, 65_507), st.binary(min_size=1, max_size=3))
def test_a_probe_of_the_path_has_the_length_that_it_names(number: int, length: int, more: bytes) -> None:
    text = wire.path_probe(number, length)
    assert len(text) + wire.OVERHEAD_BYTES == length
    found = wire.read_message(text)
    assert found is not None
    assert (found[0], wire.path_length(found[1])) == (wire.LinkMessage.PATH_PROBE, (number, length))
    assert wire.read_message(text + more) is None
    assert wire.read_message(text[:-1]) is None
    if len(text) > 9:
        assert wire.read_message(text[:-1] + b"x") is None


@given(st.sampled_from([kind for kind in wire.LinkMessage if kind is not wire.LinkMessage.PATH_PROBE]), NUMBERS)
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
